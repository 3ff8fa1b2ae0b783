package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"

	"github.com/vigil-ml/vigil/internal/fault"
)

const (
	// againAfter is when a question that no server of a cluster has answered is
	// asked again: the one that would have may be gone.
	againAfter = 2 * time.Second
	// newestTries is how often it is asked for the last message of subjects that
	// get their first one meanwhile.
	newestTries = 3
)

// Last gives the position of the node's last stored frame; a zero position
// when the stream holds none. It fails with [fault.Unavailable] when that cannot
// be known for certain.
func (b *Bus) Last(ctx context.Context, node string) (*agentv1.Position, error) {
	source := sourceOf(node, false)
	p := b.place(source)
	p.mu.Lock()
	defer p.mu.Unlock()
	if b.shared {
		p.known = false // another control plane may have got more since
	}
	if err := b.learn(ctx, source, p); err != nil {
		return nil, err
	}
	return proto.CloneOf(p.position), b.Settle(ctx, p.sequence)
}

// LastOwn gives the last message in which the control plane itself spoke of a
// node; false when the stream holds none. It fails as [Bus.Last] does.
func (b *Bus) LastOwn(ctx context.Context, node string) (Delivery, bool, error) {
	source := sourceOf(node, true)
	p := b.place(source)
	p.mu.Lock()
	defer p.mu.Unlock()
	raw, err := b.newest(ctx, b.layout.ofSource(source), p.sequence)
	if err != nil {
		return Delivery{}, false, fmt.Errorf("get the last word on node %s: %w", node, err)
	}
	if raw == nil {
		return Delivery{}, false, nil
	}
	d, err := b.layout.decode(raw.Subject, raw.Header, raw.Data, raw.Sequence)
	if err != nil {
		return Delivery{}, false, fmt.Errorf("read the last word on node %s, sequence %d: %w", node, raw.Sequence, err)
	}
	return d, true, nil
}

// LastOfRun gives the sequence of a run's last frame; 0 when there is none.
func (b *Bus) LastOfRun(ctx context.Context, runID string) (uint64, error) {
	return b.lastOf(ctx, b.layout.ofRun(runID))
}

// lastOf gives the sequence of a subject's last frame; 0 when there is none.
func (b *Bus) lastOf(ctx context.Context, subject string) (uint64, error) {
	raw, err := b.newest(ctx, subject, 0)
	if err != nil {
		return 0, fmt.Errorf("get last frame of %s: %w", subject, err)
	}
	if raw == nil {
		return 0, nil
	}
	return raw.Sequence, nil
}

// learn asks the stream for a source's last frame where that is not known.
func (b *Bus) learn(ctx context.Context, source string, p *place) error {
	if p.known {
		return nil
	}
	raw, err := b.newest(ctx, b.layout.ofSource(source), p.sequence)
	if err != nil {
		return fmt.Errorf("get last frame of node %s: %w", source, err)
	}
	if raw == nil {
		p.position, p.sequence, p.known = &agentv1.Position{}, 0, true
		return nil
	}
	position, err := parsePosition(raw.Header.Get(headerPosition))
	if err != nil {
		return fmt.Errorf("read last frame of node %s, sequence %d: %w", source, raw.Sequence, err)
	}
	p.position, p.sequence, p.known = position, raw.Sequence, true
	return nil
}

// newest gives the last message of some subjects, which are known to have had one
// at a sequence (0: of nothing); nil when the stream holds none. An answer that
// takes back what is known, or that another one speaks against, is of a server
// that has fallen behind or that could not read its files, which NATS does not
// tell from there being no message: it fails with [fault.Unavailable], as where
// there is no answer.
func (b *Bus) newest(ctx context.Context, subject string, known uint64) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for range newestTries {
		raw, err := b.ask(ctx, subject)
		switch {
		case err == nil && raw.Sequence < known:
			return nil, behind(known)
		case err == nil:
			return raw, nil
		case !errors.Is(err, jetstream.ErrMsgNotFound):
			return nil, fault.Mark(fault.Unavailable, err)
		}
		info, err := b.stream.Info(ctx, jetstream.WithSubjectFilter(subject))
		switch {
		case err != nil:
			return nil, fault.New(fault.Unavailable, "read state of the bus: %w", err)
		case info.State.FirstSeq <= known && known > 0: // it was not discarded
			return nil, behind(known)
		case len(info.State.Subjects) == 0:
			return nil, nil
		}
	}
	return nil, fault.New(fault.Unavailable, "it is there and cannot be read")
}

func behind(known uint64) error {
	return fault.New(fault.Unavailable, "the server that answers does not have sequence %d", known)
}

// ask asks once for the last message of some subjects, in a cluster again and again
// until a server answers or ctx ends.
func (b *Bus) ask(ctx context.Context, subject string) (*jetstream.RawStreamMsg, error) {
	if !b.shared {
		return b.stream.GetLastMsgForSubject(ctx, subject)
	}
	for {
		try, cancel := context.WithTimeout(ctx, againAfter)
		raw, err := b.stream.GetLastMsgForSubject(try, subject)
		late := try.Err() != nil && ctx.Err() == nil
		cancel()
		if err == nil || !late {
			return raw, err
		}
	}
}
