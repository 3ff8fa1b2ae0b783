package authority

import (
	"context"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc"

	"github.com/vigil-ml/vigil/controlplane/audit/trail"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

// watchEvery is how often the streams are looked at for what another replica
// revoked, and for certificates that have run out. What is revoked here is seen
// at once.
const watchEvery = 2 * time.Second

// stream is one open stream of a node that is known.
type stream struct {
	node    string
	serial  string    // of the certificate that holds for it now
	expires time.Time // of that one
	cancel  context.CancelCauseFunc
}

type nodeKey struct{}

// NodeOf gives the node that calls, as its certificate has it; "" outside of
// [Authority.Stream].
func NodeOf(ctx context.Context) string {
	node, _ := ctx.Value(nodeKey{}).(string)
	return node
}

// Stream lets the stream of a node in that is known, and ends its context when
// the node's certificate is revoked or has run out; it is a
// [grpc.StreamServerInterceptor].
func (a *Authority) Stream(srv any, in grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	var s *stream
	var err error
	// The stream's goroutine stays for as long as the agent does, and would keep the
	// stack that SQL needs.
	a.workers.Do(func() { s, err = a.enter(in.Context()) })
	if err != nil {
		return fault.GRPC(err)
	}
	ctx, cancel := context.WithCancelCause(context.WithValue(in.Context(), nodeKey{}, s.node))
	defer cancel(nil)
	s.cancel = cancel
	a.mu.Lock()
	a.streams[s] = struct{}{}
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.streams, s)
	}()
	err = handle(srv, known{in, func() context.Context { return ctx }})
	if cut := context.Cause(ctx); fault.Is(cut, fault.Denied) || fault.Is(cut, fault.Unauthenticated) {
		return fault.GRPC(cut)
	}
	return err
}

// enter makes the stream of the node that calls, if it is known.
func (a *Authority) enter(ctx context.Context) (*stream, error) {
	node, cert, err := a.known(ctx)
	if err != nil {
		return nil, err
	}
	return &stream{node: node, serial: serialOf(cert), expires: cert.NotAfter}, nil
}

// Admit refuses a node that says that it is another, and records it.
func (a *Authority) Admit(ctx context.Context, says string) error {
	node := NodeOf(ctx)
	if node == says {
		return nil
	}
	err := fault.New(fault.Denied, "node %s says that it is %s", node, says)
	record := trail.Record{
		Class: trail.Denied, Actor: trail.Actor{Kind: "node", ID: node, Auth: "certificate"},
		Action: agentv1.AgentService_Connect_FullMethodName[1:], Outcome: fault.Denied.String(),
	}
	if writeErr := a.deps.Audit.Write(context.WithoutCancel(ctx), record); writeErr != nil {
		a.deps.Log.Error("a node that was refused is not in the audit log", "node", node, "error", writeErr)
	}
	return err
}

// known is a stream with another context.
type known struct {
	grpc.ServerStream
	context func() context.Context
}

// Context is the stream's.
func (s known) Context() context.Context { return s.context() }

// Run cuts the streams of nodes that are no longer known, until ctx ends.
func (a *Authority) Run(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		changed := a.deps.Store.Changed(store.TopicAccess)
		if err := a.look(ctx); err != nil && ctx.Err() == nil {
			a.deps.Log.Error("look for certificates that were revoked; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-tick.C:
		}
	}
	return a.workers.Stop()
}

// look looks at every stream once.
func (a *Authority) look(ctx context.Context) error {
	now := a.deps.Clock()
	a.mu.Lock()
	streams := slices.Collect(maps.Keys(a.streams))
	a.mu.Unlock()
	if len(streams) == 0 {
		return nil
	}
	revoked, renewed := map[string]bool{}, map[string]store.Certificate{}
	err := a.deps.Store.View(ctx, func(tx *store.Tx) error {
		gone, err := tx.Revoked(now)
		if err != nil {
			return err
		}
		for _, c := range gone {
			revoked[c.Serial] = true
		}
		for _, s := range streams {
			if s.expires.After(now) {
				continue
			}
			good, err := tx.Certificates(s.node, now)
			if err != nil {
				return err
			}
			for _, c := range good {
				if c.Revoked.IsZero() && c.Expires.After(renewed[s.node].Expires) {
					renewed[s.node] = c
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, s := range streams {
		if revoked[s.serial] {
			s.cancel(errRevoked(s.node))
			continue
		}
		if s.expires.After(now) {
			continue
		}
		next, ok := renewed[s.node]
		if !ok {
			s.cancel(errExpired(s.node))
			continue
		}
		s.serial, s.expires = next.Serial, next.Expires
	}
	return nil
}
