package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/telemetry"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

const (
	idleLook   = time.Minute // how often to look when nothing wakes the loop
	sharedLook = time.Second // and where the word of another control plane may get lost
	retryAfter = time.Second // how long to wait when the store fails
	// lastWord is how long after its deadline a command is given up: the agent
	// gives up at the deadline, and knows best why.
	lastWord = 500 * time.Millisecond
)

// Run sends open commands as they appear and after each reconnect, gives up
// those whose deadline has passed, and records the nodes, until ctx ends. When
// the store fails it says so in the log and tries again.
func (f *Fleet) Run(ctx context.Context) error {
	if f.deps.Self == "" { // else some of them may be another's
		if err := f.recall(ctx); err != nil {
			return err
		}
	}
	tasks := []life.Task{
		{Name: "send commands", Run: f.dispatch},
		{Name: "record nodes", Run: f.recordEvery},
	}
	if f.deps.Bus != nil && f.deps.Self == "" {
		tasks = append(tasks, life.Task{Name: "say who is heard", Run: f.links})
	}
	return life.All(ctx, tasks...)
}

// dispatcher is one run of the loop that sends and gives up commands. Only
// that loop uses it.
type dispatcher struct {
	*Fleet
	senders *life.Group
	open    map[string]bool // ids of the commands that were open at the last look
}

func (f *Fleet) dispatch(ctx context.Context) error {
	d := &dispatcher{Fleet: f, senders: life.NewGroup(ctx), open: map[string]bool{}}
	timer := time.NewTimer(idleLook)
	defer timer.Stop()
	for ctx.Err() == nil {
		// Taken before the look, so that a commit during it is not missed.
		changed := f.deps.Store.Changed(store.TopicCommands)
		again, err := d.look(ctx)
		if err != nil && ctx.Err() == nil {
			f.deps.Log.Error("commands wait", "error", err, "retry_after", retryAfter)
			again = retryAfter
		}
		timer.Reset(again)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-f.wake:
		case <-timer.C:
		}
	}
	d.senders.Stop()
	return d.senders.Wait()
}

// look does once what there is to do, sending first, and says after how long
// to look again at the latest.
func (d *dispatcher) look(ctx context.Context) (time.Duration, error) {
	open, closed, err := d.read(ctx)
	if err != nil {
		return 0, fmt.Errorf("read commands: %w", err)
	}
	now, again := d.deps.Clock(), idleLook
	if d.deps.Self != "" {
		again = sharedLook
	}
	late := false
	byNode := map[string][]store.Command{}
	for _, command := range open {
		left := command.Deadline.Add(lastWord).Sub(now)
		if left <= 0 {
			late = true
			continue
		}
		again = min(again, left)
		if now.Before(command.Deadline) {
			byNode[command.Node] = append(byNode[command.Node], command)
		}
	}
	for node, commands := range byNode {
		if s, todo := d.claim(node, commands); s != nil {
			d.senders.Go("send commands to "+node, func(ctx context.Context) error {
				d.sendAll(ctx, s, todo)
				return nil
			})
		}
	}
	d.count(open, closed)
	if late {
		err = d.expire(ctx, now)
	}
	return again, errors.Join(err, d.record(ctx, true))
}

// read gives the open commands, and those that were open at the last look and
// are not any more.
func (d *dispatcher) read(ctx context.Context) (open, closed []store.Command, err error) {
	err = d.deps.Store.View(ctx, func(tx *store.Tx) (err error) {
		if open, err = tx.OpenCommands(""); err != nil {
			return err
		}
		gone := maps.Clone(d.open)
		for _, command := range open {
			delete(gone, command.ID)
		}
		for id := range gone {
			command, err := tx.Command(id)
			if err != nil {
				return err
			}
			closed = append(closed, command)
		}
		return nil
	})
	return open, closed, err
}

// count counts how commands ended, whoever it was that closed them.
func (d *dispatcher) count(open, closed []store.Command) {
	for _, command := range closed {
		delete(d.open, command.ID)
		d.commands.WithLabelValues(result(command.State)).Inc()
	}
	for _, command := range open {
		d.open[command.ID] = true
	}
}

// result is a closed command's state as the metric names it.
func result(state store.CommandState) string {
	switch state {
	case store.CommandDone:
		return "done"
	case store.CommandExpired:
		return "expired"
	default:
		return "failed"
	}
}

// claim gives a node's session and those of its commands that did not go out
// on it; nil when there is nothing to do or a task is at it already.
func (f *Fleet) claim(node string, commands []store.Command) (*session, []store.Command) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.sessions[node]
	if s == nil || s.sending {
		return nil, nil
	}
	stillOpen := map[string]bool{}
	var todo []store.Command
	for _, command := range commands {
		stillOpen[command.ID] = true
		if !s.sent[command.ID] {
			todo = append(todo, command)
		}
	}
	maps.DeleteFunc(s.sent, func(id string, _ bool) bool { return !stillOpen[id] })
	if len(todo) == 0 {
		return nil, nil
	}
	s.sending = true
	return s, todo
}

// sendAll sends commands on one session. Those that cannot be sent stay open
// and go out on the node's next session.
func (f *Fleet) sendAll(ctx context.Context, s *session, commands []store.Command) {
	var out []string
	for _, command := range commands {
		if err := f.send(ctx, s, command); err != nil {
			f.deps.Log.Info("command waits for the agent's next session", "command", command.ID, "node", s.node, "error", err)
			break
		}
		out = append(out, command.ID)
	}
	f.mu.Lock()
	for _, id := range out {
		s.sent[id] = true
	}
	// A session on which sending failed is over: nothing more goes out on it.
	s.sending = len(out) < len(commands)
	f.mu.Unlock()
	f.nudge() // for what came for the node in the meantime
	if err := f.markSent(ctx, out); err != nil && ctx.Err() == nil {
		f.deps.Log.Error("command was sent but is not marked so", "node", s.node, "error", err)
	}
}

func (f *Fleet) send(ctx context.Context, s *session, command store.Command) error {
	wire := command.Wire
	if wire.Traceparent != "" {
		ctx, span := f.deps.Tracer.Start(telemetry.WithTraceparent(ctx, wire.Traceparent), "vigil.command.send")
		defer span.End()
		wire = proto.CloneOf(wire)
		wire.Traceparent = telemetry.Traceparent(ctx)
	}
	if err := s.send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Command{Command: wire}}); err != nil {
		return fmt.Errorf("send command to %s: %w", s.node, err)
	}
	f.commands.WithLabelValues("sent").Inc()
	return nil
}

// markSent notes in the store what went out. Where the agent was faster and its
// answer is there already, the store keeps that.
func (f *Fleet) markSent(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	err := f.deps.Store.Update(ctx, func(tx *store.Tx) error {
		for _, id := range ids {
			if err := tx.SetCommandState(id, store.CommandSent, ""); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("mark commands sent: %w", err)
	}
	return nil
}
