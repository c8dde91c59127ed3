package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "graf.dev/driver-example/driverv1"
)

// refused is one row of the error table in driver.proto: the status that the caller gets, and a word for machines.
type refused struct {
	code     codes.Code
	reason   string
	message  string
	highest  uint64
	problems []*pb.FieldProblem
}

func (r refused) Error() string { return r.message }

func invalid(where string, problems ...*pb.FieldProblem) error {
	message := where + " cannot be used:"
	for _, problem := range problems {
		message += fmt.Sprintf(" %s: %s (fix: %s);", problem.Field, problem.Cause, problem.Fix)
	}
	return refused{codes.InvalidArgument, "invalid-parameters", message, 0, problems}
}

func badArgument(field, cause, fix string) error {
	return invalid("the arguments", &pb.FieldProblem{Field: field, Cause: cause, Fix: fix})
}

func unsupported(call, capability string) error {
	return refused{code: codes.Unimplemented, reason: "unsupported", message: fmt.Sprintf(
		"%s is not supported by driver %s: it declares no capability %s. Nothing was done; do without it",
		call, driverName, capability)}
}

// told turns an error into the call's status, with the trailers that the controller reads.
func told(ctx context.Context, call string, err error) error {
	var row refused
	var stale staleEpoch
	switch {
	case err == nil:
		return nil
	case errors.As(err, &stale):
		row = refused{code: codes.FailedPrecondition, reason: "stale-epoch", message: err.Error(), highest: stale.highest}
	case errors.As(err, &row):
	default:
		row = refused{code: codes.Internal, reason: "driver-failed", message: fmt.Sprintf("%s: %v", call, err)}
	}
	trailer := metadata.Pairs("graf-reason", row.reason)
	if row.highest > 0 {
		trailer.Set("graf-epoch-highest", strconv.FormatUint(row.highest, 10))
	}
	if len(row.problems) > 0 {
		if content, err := proto.Marshal(&pb.ValidateResponse{Problems: row.problems}); err == nil && len(content) <= 4096 {
			trailer.Set("graf-problems-bin", string(content))
		}
	}
	_ = grpc.SetTrailer(ctx, trailer)
	return status.Error(row.code, row.message)
}
