// A GRAF driver in Go, without anything of GRAF but the contract: driver.proto.
//
// It controls a TCP service that greets its clients, so that what a driver must keep to is all that is here: the epoch is
// durable before anybody acts on it (epoch.go), one changing call at a time for a component (component.go), errors by the
// contract's table (errors.go), status is observation (greeter.go), and a start without a role.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"

	pb "graf.dev/driver-example/driverv1"
)

const (
	version         = "0.1.0"
	defaultStateDir = "/var/lib/graf/driver-state"
	stopGrace       = 2 * time.Second
	// sockaddr_un has 108 bytes with the ending zero (man 7 unix).
	longestPath = 107
)

func main() {
	os.Exit(run())
}

func run() int {
	endpoint := flag.String("endpoint", os.Getenv("GRAF_DRIVER_SOCKET"), "unix:/path, /path or host:port")
	stateDir := flag.String("state-dir", stateDirectory(), "where epochs are kept")
	descriptor := flag.Bool("descriptor", false, "write the contract that this driver was built with, and end")
	flag.Parse()
	if *descriptor {
		return writeDescriptor()
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	if *endpoint == "" {
		fmt.Fprintln(os.Stderr, "no address to serve on: set GRAF_DRIVER_SOCKET to a socket's path, or give --endpoint")
		return 2
	}
	listener, err := listen(*endpoint)
	if err != nil {
		log.Error("cannot start", "endpoint", *endpoint, "cause", err.Error())
		return 2
	}
	service := newComponentService(newEpochGuard(*stateDir))
	server := grpc.NewServer(grpc.UnaryInterceptor(logged(log)))
	pb.RegisterIdentityServer(server, identityService{})
	pb.RegisterComponentServer(server, service)
	ending := make(chan os.Signal, 1)
	signal.Notify(ending, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-ending
		log.Info("stopping")
		close(service.stopping)
		time.AfterFunc(stopGrace, server.Stop)
		server.GracefulStop()
	}()
	log.Info("serving", "driver", driverName, "version", version, "endpoint", *endpoint, "state_dir", *stateDir)
	if err := server.Serve(listener); err != nil {
		log.Error("serving failed", "cause", err.Error())
		return 1
	}
	return 0
}

func stateDirectory() string {
	if directory := os.Getenv("GRAF_DRIVER_STATE_DIR"); directory != "" {
		return directory
	}
	return defaultStateDir
}

// listen claims the address. A unix socket is locked first, so that two drivers never share one; the kernel gives the lock
// back when a process dies, however it dies.
func listen(endpoint string) (net.Listener, error) {
	path := strings.TrimPrefix(endpoint, "unix:")
	if path == endpoint && !strings.HasPrefix(endpoint, "/") {
		return net.Listen("tcp", endpoint)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if len(path) > longestPath {
		return nil, fmt.Errorf("%s is longer than %d bytes, the kernel's limit; choose a shorter path", path, longestPath)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, fmt.Errorf("%s belongs to another running driver; stop that one, or choose another path", path)
	}
	keptLock = lock
	if state, err := os.Lstat(path); err == nil && state.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("%s is there and is no socket; it is left alone: move it away or choose another path", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", path)
}

// keptLock is held as long as the process lives.
var keptLock *os.File

// logged writes one line for each call that failed. Parameters are never logged: they may hold secrets.
func logged(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (answer any, err error) {
		defer func() {
			if cause := recover(); cause != nil {
				log.Error("call failed unexpectedly", "call", info.FullMethod, "cause", fmt.Sprint(cause))
				answer, err = nil, told(ctx, info.FullMethod, errors.New("failed unexpectedly; its outcome is unknown"))
			}
		}()
		answer, err = handler(ctx, request)
		if err != nil {
			log.Info("call", "call", info.FullMethod, "outcome", err.Error())
		}
		return answer, err
	}
}

// writeDescriptor lets a test compare the stubs with driver.proto as it is now.
func writeDescriptor() int {
	content, err := proto.Marshal(protodesc.ToFileDescriptorProto(pb.File_graf_driver_sdk_v1_driver_proto))
	if err == nil {
		_, err = os.Stdout.Write(content)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
