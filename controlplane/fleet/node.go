package fleet

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// record is what is known of a node, and whether the store knows it too.
type record struct {
	node  *controlv1.Node
	stale bool // the store has less
	soon  bool // write it now rather than with the next heartbeats

	left bool // it was here in this life of the control plane, and went away
	skew skew
}

// connected notes a session's Hello. The caller holds f.mu.
func (f *Fleet) connected(hello *agentv1.Hello) {
	r := f.nodes[hello.Node]
	if r == nil {
		r = &record{node: &controlv1.Node{Name: hello.Node}}
		f.nodes[hello.Node] = r
	}
	r.node.State, r.node.Replica = controlv1.NodeState_NODE_STATE_CONNECTED, f.deps.Self
	r.node.AgentVersion = hello.Version
	r.node.Facts = maps.Clone(hello.Facts)
	f.touch(r, true)
}

// disconnected notes the end of a session. The caller holds f.mu.
func (f *Fleet) disconnected(node string) {
	r := f.nodes[node]
	r.node.State = controlv1.NodeState_NODE_STATE_DISCONNECTED
	r.left = true
	f.touch(r, true)
}

func (f *Fleet) touch(r *record, soon bool) {
	r.node.LastSeen = timestamppb.New(f.deps.Clock())
	r.stale = true
	r.soon = r.soon || soon
}

// Heartbeat notes how a node's agent is. The store has it within
// [Config].RecordInterval. It fails with [fault.NotFound] when the node has no
// session.
func (f *Fleet) Heartbeat(node string, beat *agentv1.Heartbeat) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sessions[node] == nil {
		return fault.New(fault.NotFound, "note heartbeat: node %s has no session", node)
	}
	r := f.nodes[node]
	r.node.SpooledEventFrames = beat.SpooledEventFrames
	r.node.DroppedFrames, r.node.DroppedEventFrames = beat.DroppedFrames, beat.DroppedEventFrames
	r.node.Collectors = maps.Clone(beat.Collectors)
	r.node.Settings = inWords(beat.Settings)
	f.touch(r, false)
	if beat.Time != nil {
		r.skew.add(beat.Time.AsTime().Sub(r.node.LastSeen.AsTime()).Seconds())
		r.node.ClockAheadSeconds = r.skew.ahead()
	}
	return nil
}

// inWords is what an agent has taken of the control plane's settings; nil where
// it has taken nothing.
func inWords(settings *agentv1.Settings) map[string]string {
	var all map[string]string
	for kind, set := range settings.GetCollectors() {
		var words []string
		switch {
		case set.GetOff():
			words = append(words, "off")
		case set.Off != nil:
			words = append(words, "on")
		}
		if interval := set.GetInterval().AsDuration(); interval > 0 && !set.GetOff() {
			words = append(words, "every "+interval.String())
		}
		if all == nil {
			all = map[string]string{}
		}
		all[kind] = strings.Join(words, ", ")
	}
	return all
}

// recall takes over what the store knows of nodes. Those that were connected
// when the control plane went down, and are not yet back, are disconnected.
func (f *Fleet) recall(ctx context.Context) error {
	var known []*controlv1.Node
	err := f.deps.Store.View(ctx, func(tx *store.Tx) (err error) {
		known, err = tx.Nodes()
		return err
	})
	if err != nil {
		return fmt.Errorf("read nodes: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, node := range known {
		if f.nodes[node.Name] != nil {
			continue
		}
		r := &record{node: node}
		f.nodes[node.Name] = r
		if node.State == controlv1.NodeState_NODE_STATE_CONNECTED {
			node.State = controlv1.NodeState_NODE_STATE_DISCONNECTED
			r.stale, r.soon = true, true
		}
	}
	return nil
}

// record writes what the store does not have: all of it, or, when only urgent
// is asked for, nothing unless a node came or went.
func (f *Fleet) record(ctx context.Context, onlyUrgent bool) error {
	stale := f.takeStale(onlyUrgent)
	if len(stale) == 0 {
		return nil
	}
	err := f.deps.Store.Update(ctx, func(tx *store.Tx) error {
		for _, node := range stale {
			if err := f.put(tx, node); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		f.markStale(stale)
		return fmt.Errorf("record nodes: %w", err)
	}
	f.forget(stale)
	return nil
}

// put writes a node, unless it went away from here and is at another control
// plane by now.
func (f *Fleet) put(tx *store.Tx, node *controlv1.Node) error {
	if f.deps.Self != "" && node.State != controlv1.NodeState_NODE_STATE_CONNECTED {
		kept, err := tx.Node(node.Name)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
		if err == nil && kept.GetReplica() != f.deps.Self {
			return nil
		}
	}
	return tx.PutNode(node)
}

// forget lets go of nodes that went away and are written: where there are other
// control planes, they may be at one of these.
func (f *Fleet) forget(nodes []*controlv1.Node) {
	if f.deps.Self == "" {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, node := range nodes {
		if r := f.nodes[node.Name]; r != nil && !r.stale && f.sessions[node.Name] == nil {
			delete(f.nodes, node.Name)
		}
	}
}

// markStale has nodes written again whose writing failed.
func (f *Fleet) markStale(nodes []*controlv1.Node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, node := range nodes {
		if r := f.nodes[node.Name]; r != nil {
			r.stale = true
		}
	}
}

// takeStale gives copies of the nodes that the store does not have as they
// are.
func (f *Fleet) takeStale(onlyUrgent bool) []*controlv1.Node {
	f.mu.Lock()
	defer f.mu.Unlock()
	var stale []*controlv1.Node
	urgent := !onlyUrgent
	for _, r := range f.nodes {
		urgent = urgent || r.soon
	}
	if !urgent {
		return nil
	}
	for _, r := range f.nodes {
		if r.stale {
			stale = append(stale, proto.CloneOf(r.node))
			r.stale, r.soon = false, false
		}
	}
	return stale
}

// recordEvery writes heartbeats at the configured pace until ctx ends.
func (f *Fleet) recordEvery(ctx context.Context) error {
	tick := time.NewTicker(f.config.RecordInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := f.record(ctx, false); err != nil && ctx.Err() == nil {
			f.deps.Log.Error("nodes are not recorded", "error", err, "retry_after", f.config.RecordInterval)
		}
	}
}
