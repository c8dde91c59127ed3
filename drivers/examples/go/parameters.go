package main

import (
	"fmt"
	"net"
	"regexp"
	"sort"
	"strconv"

	pb "graf.dev/driver-example/driverv1"
)

// RFC 1123 label: what Kubernetes allows, and what may be part of a file's name.
var namePattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// parse reads a component's parameters: where its service listens. Values are not repeated in problems: they may be secret.
func parse(spec *pb.ComponentSpec) (string, []*pb.FieldProblem) {
	var problems []*pb.FieldProblem
	fields := spec.GetParameters().GetFields()
	for name := range fields {
		if name != "listen" {
			problems = append(problems, &pb.FieldProblem{Field: name, Cause: "no such parameter", Fix: "remove it; known is listen"})
		}
	}
	sort.Slice(problems, func(i, j int) bool { return problems[i].Field < problems[j].Field })
	listen := fields["listen"].GetStringValue()
	host, port, err := net.SplitHostPort(listen)
	number, _ := strconv.Atoi(port)
	if err != nil || net.ParseIP(host) == nil || number < 1 || number > 65535 {
		problems = append(problems, &pb.FieldProblem{
			Field: "listen", Cause: "is no address and port", Fix: "write, e.g., 198.18.0.1:7000",
		})
	}
	return listen, problems
}

// checkNames refuses a spec whose names cannot be file names.
func checkNames(spec *pb.ComponentSpec) error {
	var problems []*pb.FieldProblem
	names := [][2]string{{"group", spec.GetGroup()}, {"component", spec.GetComponent()}, {"site", spec.GetSite()}}
	for _, each := range names {
		if !namePattern.MatchString(each[1]) {
			problems = append(problems, &pb.FieldProblem{
				Field: each[0], Cause: fmt.Sprintf("%q is no name", each[1]),
				Fix: "lower-case letters, digits and dashes, at most 63",
			})
		}
	}
	if len(problems) > 0 {
		return invalid("the names in spec", problems...)
	}
	return nil
}

func checkRole(field string, role pb.Role) error {
	if _, known := pb.Role_name[int32(role)]; !known {
		return badArgument(field, fmt.Sprintf("%d is not known to this driver", role), "one of ACTIVE, STANDBY, FENCED, INVALIDATED")
	}
	return nil
}

func checkPeers(peers []*pb.Peer) error {
	for _, peer := range peers {
		if err := checkRole("peers.role", peer.GetRole()); err != nil {
			return err
		}
	}
	return nil
}
