package main

import (
	"sync"

	"google.golang.org/grpc/codes"

	pb "graf.dev/driver-example/driverv1"
)

// key names a component at a site.
type key struct{ group, component, site string }

// component is one component: its service, the role it rests in, who watches it, and its lane.
type component struct {
	greeter *greeter
	// Held during a call that changes something: the next one is refused, never queued.
	lane    sync.Mutex
	mutex   sync.Mutex
	resting pb.Role       // which of the roles that serve nothing; a driver starts without a role
	changed chan struct{} // closed, and replaced, at each change
}

// components are made at the first call for each.
type components struct {
	mutex sync.Mutex
	known map[key]*component
}

func (c *components) of(spec *pb.ComponentSpec) *component {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	name := key{spec.GetGroup(), spec.GetComponent(), spec.GetSite()}
	found, ok := c.known[name]
	if !ok {
		found = &component{greeter: newGreeter(name.site), resting: pb.Role_ROLE_FENCED, changed: make(chan struct{})}
		c.known[name] = found
	}
	return found
}

// take occupies the component's lane.
func (c *component) take(call string) error {
	if !c.lane.TryLock() {
		return refused{code: codes.Aborted, reason: "busy", message: call +
			" is refused: another call for this component is in flight; wait for it, then call again"}
	}
	return nil
}

func (c *component) rest(role pb.Role) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.resting = role
}

func (c *component) rests() pb.Role {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.resting
}

// notify wakes every watcher.
func (c *component) notify() {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *component) next() <-chan struct{} {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.changed
}
