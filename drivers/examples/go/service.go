package main

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	pb "graf.dev/driver-example/driverv1"
)

const (
	driverName = "greeter.example.org"
	// The longest silence on a watch: a status is sent again as a sign of life.
	refresh = time.Second
	retryMs = 100
)

// identityService is graf.driver.v1.Identity.
type identityService struct {
	pb.UnimplementedIdentityServer
}

func (identityService) GetInfo(context.Context, *pb.GetInfoRequest) (*pb.GetInfoResponse, error) {
	return &pb.GetInfoResponse{Name: driverName, VendorVersion: version, ContractVersions: []string{"v1"}}, nil
}

func (identityService) Probe(context.Context, *pb.ProbeRequest) (*pb.ProbeResponse, error) {
	return &pb.ProbeResponse{Ready: true}, nil
}

// componentService is graf.driver.v1.Component. It declares no capability: it holds no data and no gate.
type componentService struct {
	pb.UnimplementedComponentServer
	guard      *epochGuard
	components components
	stopping   chan struct{} // closed when the server stops: watches end
}

func newComponentService(guard *epochGuard) *componentService {
	return &componentService{
		guard: guard, components: components{known: map[key]*component{}}, stopping: make(chan struct{}),
	}
}

func (s *componentService) Validate(ctx context.Context, request *pb.ValidateRequest) (*pb.ValidateResponse, error) {
	if err := firstOf(checkNames(request.GetSpec()), checkPeers(request.GetPeers())); err != nil {
		return nil, told(ctx, "Validate", err)
	}
	_, problems := parse(request.GetSpec())
	return &pb.ValidateResponse{Problems: problems}, nil
}

func (s *componentService) EnsureRole(ctx context.Context, request *pb.EnsureRoleRequest) (*pb.EnsureRoleResponse, error) {
	progress, err := s.ensureRole(ctx, request)
	if err != nil {
		return nil, told(ctx, "EnsureRole", err)
	}
	return &pb.EnsureRoleResponse{Progress: progress}, nil
}

// ensureRole keeps the order of checks of every mutating call: names and arguments, lane, epoch (durable), component.
func (s *componentService) ensureRole(ctx context.Context, request *pb.EnsureRoleRequest) (*pb.Progress, error) {
	spec := request.GetSpec()
	if err := firstOf(checkNames(spec), checkPeers(request.GetPeers()), checkRequest(request)); err != nil {
		return nil, err
	}
	one := s.components.of(spec)
	if err := one.take("EnsureRole"); err != nil {
		return nil, err
	}
	defer one.lane.Unlock()
	if err := s.admit(spec, request.GetEpoch()); err != nil {
		return nil, err
	}
	listen, problems := parse(spec)
	if len(problems) > 0 {
		return nil, invalid("parameters", problems...)
	}
	if err := ctx.Err(); err != nil {
		return nil, err // nobody waits for it any more: what was not begun is not begun
	}
	defer one.notify()
	active := request.GetRole() == pb.Role_ROLE_ACTIVE
	if active {
		if err := one.greeter.serve(listen); err != nil {
			return pending("cannot serve yet: " + err.Error()), nil
		}
	} else {
		one.greeter.stop()
	}
	if seen := one.greeter.look(listen); !seen.known || seen.serving != active {
		return pending(request.GetRole().String() + " is not seen yet: " + seen.message), nil
	}
	if active {
		one.rest(pb.Role_ROLE_FENCED) // should it end by itself later, it is at rest without a role
	} else {
		one.rest(request.GetRole())
	}
	return &pb.Progress{Completed: true, Message: request.GetRole().String()}, nil
}

func (s *componentService) GetStatus(ctx context.Context, request *pb.GetStatusRequest) (*pb.ComponentStatus, error) {
	seen, err := s.observe(request.GetSpec())
	return seen, told(ctx, "GetStatus", err)
}

func (s *componentService) WatchStatus(request *pb.WatchStatusRequest, stream pb.Component_WatchStatusServer) error {
	timer := time.NewTicker(refresh)
	defer timer.Stop()
	for {
		if err := checkNames(request.GetSpec()); err != nil {
			return told(stream.Context(), "WatchStatus", err)
		}
		changed := s.components.of(request.GetSpec()).next() // before looking: no change is missed
		seen, err := s.observe(request.GetSpec())
		if err != nil {
			return told(stream.Context(), "WatchStatus", err)
		}
		if err := stream.Send(seen); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-timer.C:
		case <-stream.Context().Done():
			return nil
		case <-s.stopping:
			return nil
		}
	}
}

// observe asks the service; nothing of what was asked for is in it but the kind of rest.
func (s *componentService) observe(spec *pb.ComponentSpec) (*pb.ComponentStatus, error) {
	if err := checkNames(spec); err != nil {
		return nil, err
	}
	listen, problems := parse(spec)
	if len(problems) > 0 {
		return nil, invalid("parameters", problems...)
	}
	one := s.components.of(spec)
	result := &pb.ComponentStatus{
		ObservedAtNs: monotonicNs(), LagSeconds: -1, LagTransactions: -1, Health: pb.Health_HEALTH_HEALTHY, Facts: map[string]string{},
	}
	seen := one.greeter.look(listen)
	result.Message = seen.message
	switch {
	case !seen.known:
		result.Health = pb.Health_HEALTH_UNKNOWN
	case seen.serving:
		result.Role, result.Accepting = pb.Role_ROLE_ACTIVE, true
	default:
		result.Role = one.rests()
	}
	epoch, err := s.guard.highest(componentName{spec.GetGroup(), spec.GetComponent()})
	if err != nil {
		result.Facts["epoch_guard"] = err.Error()
		result.PromotableReason = err.Error()
	}
	result.Epoch = epoch
	return result, nil
}

func (s *componentService) admit(spec *pb.ComponentSpec, epoch uint64) error {
	err := s.guard.admit(componentName{spec.GetGroup(), spec.GetComponent()}, epoch)
	if _, stale := err.(staleEpoch); err == nil || stale {
		return err
	}
	return refused{code: codes.FailedPrecondition, reason: "epoch-state", message: err.Error()}
}

func (s *componentService) RenewLease(ctx context.Context, _ *pb.RenewLeaseRequest) (*pb.RenewLeaseResponse, error) {
	return nil, told(ctx, "RenewLease", unsupported("RenewLease", "GATE"))
}

func (s *componentService) Quiesce(ctx context.Context, _ *pb.QuiesceRequest) (*pb.QuiesceResponse, error) {
	return nil, told(ctx, "Quiesce", unsupported("Quiesce", "POSITION"))
}

func (s *componentService) Unquiesce(ctx context.Context, _ *pb.UnquiesceRequest) (*pb.UnquiesceResponse, error) {
	return nil, told(ctx, "Unquiesce", unsupported("Unquiesce", "POSITION"))
}

func (s *componentService) AwaitPosition(ctx context.Context, _ *pb.AwaitPositionRequest) (*pb.AwaitPositionResponse, error) {
	return nil, told(ctx, "AwaitPosition", unsupported("AwaitPosition", "POSITION"))
}

func (s *componentService) Assess(ctx context.Context, _ *pb.AssessRequest) (*pb.AssessResponse, error) {
	return nil, told(ctx, "Assess", unsupported("Assess", "RESYNC"))
}

func (s *componentService) Resync(ctx context.Context, _ *pb.ResyncRequest) (*pb.ResyncResponse, error) {
	return nil, told(ctx, "Resync", unsupported("Resync", "RESYNC"))
}

func checkRequest(request *pb.EnsureRoleRequest) error {
	role := request.GetRole()
	if err := checkRole("role", role); err != nil {
		return err
	}
	switch {
	case role == pb.Role_ROLE_UNSPECIFIED:
		return badArgument("role", "is missing", "ACTIVE, STANDBY, FENCED or INVALIDATED")
	case role == pb.Role_ROLE_ACTIVE && request.GetEpoch() == 0:
		return badArgument("epoch", "EnsureRole(ACTIVE) needs one", "the epoch that was won, from 1")
	case role != pb.Role_ROLE_ACTIVE && len(request.GetSynchronousSet()) > 0:
		return badArgument("synchronous_set", "has no meaning for "+role.String(), "give it only with ACTIVE")
	}
	return nil
}

func pending(message string) *pb.Progress {
	return &pb.Progress{RetryAfterMs: retryMs, Message: message}
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// monotonicNs is CLOCK_MONOTONIC, the clock of the contract. Go's own monotonic clock has another zero.
func monotonicNs() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0
	}
	return now.Nano()
}
