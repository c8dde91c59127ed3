package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"
)

const lookTimeout = 300 * time.Millisecond

// greeter is what this driver controls: a TCP service that greets its clients while its site is active.
//
// Invariants: it starts without serving, and dies with the process; when stop has returned, no listener and no
// connection of it is left.
type greeter struct {
	site     string
	mutex    sync.Mutex
	listener net.Listener
	clients  map[net.Conn]struct{}
	work     sync.WaitGroup
}

// observed is what was seen by asking the service itself, never what was asked for.
type observed struct {
	serving bool
	known   bool // false: it could not be told
	message string
}

func newGreeter(site string) *greeter {
	return &greeter{site: site, clients: map[net.Conn]struct{}{}}
}

// serve begins to listen, or goes on when it does already on this address.
func (g *greeter) serve(address string) error {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	if g.listener != nil {
		return nil
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	g.listener = listener
	g.work.Add(1)
	go g.accept(listener)
	return nil
}

// stop ends the listener and every connection, and returns when they are gone.
func (g *greeter) stop() {
	g.mutex.Lock()
	if g.listener != nil {
		g.listener.Close()
		g.listener = nil
	}
	for client := range g.clients {
		client.Close()
	}
	g.mutex.Unlock()
	g.work.Wait()
}

func (g *greeter) accept(listener net.Listener) {
	defer g.work.Done()
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		if !g.welcome(listener, client) {
			client.Close()
		}
	}
}

// welcome registers a client, unless the service was stopped since it came.
func (g *greeter) welcome(listener net.Listener, client net.Conn) bool {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	if g.listener != listener {
		return false
	}
	g.clients[client] = struct{}{}
	g.work.Add(1)
	go g.greet(client)
	return true
}

// greet answers each line that the client sends with the site's name, as long as the site serves.
func (g *greeter) greet(client net.Conn) {
	defer g.work.Done()
	defer func() {
		client.Close()
		g.mutex.Lock()
		delete(g.clients, client)
		g.mutex.Unlock()
	}()
	lines := bufio.NewScanner(client)
	for lines.Scan() {
		if _, err := fmt.Fprintf(client, "hello from %s\n", g.site); err != nil {
			return
		}
	}
}

// look asks the service as a client would.
func (g *greeter) look(address string) observed {
	client, err := net.DialTimeout("tcp", address, lookTimeout)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return observed{known: true}
	}
	if err != nil {
		return observed{message: fmt.Sprintf("whether anything listens on %s cannot be told: %v", address, err)}
	}
	defer client.Close()
	client.SetDeadline(time.Now().Add(lookTimeout))
	fmt.Fprintln(client, "hello")
	answer, err := bufio.NewReader(client).ReadString('\n')
	g.mutex.Lock()
	ours := g.listener != nil
	g.mutex.Unlock()
	if err == nil && ours && strings.TrimSpace(answer) == "hello from "+g.site {
		return observed{serving: true, known: true}
	}
	return observed{message: fmt.Sprintf("%s is not answered by this service; does another program listen there?", address)}
}
