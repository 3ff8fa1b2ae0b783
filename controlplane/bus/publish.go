package bus

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
)

// Headers of a message. The node is in the subject.
const (
	headerPosition = "Vigil-Position" // epoch/sequence
	headerReceived = "Vigil-Received" // RFC 3339, nanoseconds, UTC
)

// askTimeout bounds one question to the embedded server.
const askTimeout = 10 * time.Second

// place is what is known of one node's last stored frame. Its mutex also keeps
// the node's frames in order.
type place struct {
	mu       sync.Mutex
	known    bool
	position *agentv1.Position
	sequence uint64
}

// Publish stores a frame and gives its sequence in the stream; the frame is
// durable, as [Config.Sync] has it, when Publish returns. A frame at or below
// the node's last one is a repeat: it is not stored, and the sequence is that
// of the last one. Frames of one node are stored one after the other, in the
// order of the calls. After an error the frame may or may not be stored:
// publish it again. It fails with [fault.Invalid] for a frame without node or
// position or of more than [MaxBatchBytes], and with [fault.Unavailable] when
// the stream does not answer.
func (b *Bus) Publish(ctx context.Context, m Message) (sequence uint64, err error) {
	if sequence, err = b.Write(ctx, m); err != nil {
		return 0, err
	}
	return sequence, b.Settle(ctx, sequence)
}

// Write is Publish without the wait until the frame is durable: [Bus.Settle] does
// that, for all frames up to one at once. Until then nothing may be told of it.
func (b *Bus) Write(ctx context.Context, m Message) (sequence uint64, err error) {
	if err := m.check(); err != nil {
		return 0, err
	}
	data, err := proto.Marshal(m.Batch)
	if err != nil {
		return 0, fault.New(fault.Invalid, "marshal frame %s of node %s: %w", positionText(m.Position), m.Node, err)
	}
	if len(data) > MaxBatchBytes {
		return 0, fault.WithHint(
			fault.New(fault.Invalid, "frame %s of node %s has %d bytes; the bus takes at most %d", positionText(m.Position), m.Node, len(data), MaxBatchBytes),
			"split the batch into smaller frames")
	}
	source := sourceOf(m.Node, m.Own)
	p := b.place(source)
	p.mu.Lock()
	defer p.mu.Unlock()
	for try := 1; ; try++ {
		if err := b.learn(ctx, source, p); err != nil {
			return 0, err
		}
		if compare(m.Position, p.position) <= 0 {
			return p.sequence, nil
		}
		ack, err := b.store(ctx, m, data, p)
		if err == nil {
			p.position, p.sequence = proto.CloneOf(m.Position), ack.Sequence
			return ack.Sequence, nil
		}
		p.known = false // it may be stored all the same, or another control plane stored the next one
		if !overtaken(err) || try == publishTries || !life.Sleep(ctx, time.Duration(try)*10*time.Millisecond) {
			return 0, fault.New(fault.Unavailable, "store frame %s of node %s: %w", positionText(m.Position), m.Node, err)
		}
	}
}

// overtaken tells whether the source's last frame is another than was known.
func overtaken(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && slices.Contains([]jetstream.ErrorCode{
		jetstream.JSErrCodeStreamWrongLastSequence, wrongLastSequenceConstant, duplicateConflict,
	}, api.ErrorCode)
}

// Codes of NATS that the client has no names for: another message of the source,
// or the same one, is on its way.
const (
	wrongLastSequenceConstant = 10164
	duplicateConflict         = 10158
)

// store stores a frame. Where other control planes may store frames of the same
// source, it is stored only if the source's last frame is the one that is known:
// a session that the agent has left cannot bring in what another one has.
func (b *Bus) store(ctx context.Context, m Message, data []byte, p *place) (*jetstream.PubAck, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	msg := nats.NewMsg(b.layout.subject(sourceOf(m.Node, m.Own), m.Batch.RunId))
	msg.Data = data
	msg.Header.Set(headerPosition, positionText(m.Position))
	msg.Header.Set(headerReceived, m.Received.UTC().Format(time.RFC3339Nano))
	// The id guards against the frame being on its way still when an earlier
	// call gave up on it.
	id := sourceOf(m.Node, m.Own) + "/" + positionText(m.Position)
	options := []jetstream.PublishOpt{jetstream.WithMsgID(id), jetstream.WithExpectStream(b.name())}
	if b.shared {
		options = append(options, jetstream.WithExpectLastSequenceForSubject(p.sequence, b.layout.ofSource(sourceOf(m.Node, m.Own))))
	}
	ack, err := b.js.PublishMsg(ctx, msg, options...)
	if err == nil && b.syncer != nil {
		b.syncer.wrote(ack.Sequence)
	}
	return ack, err
}

// Settle returns when a frame that the stream has is durable, and all before it,
// as [Config.Sync] has it. It fails with [fault.Unavailable] when that cannot be
// known. Whatever is told of a frame, to its agent or to who works on it, is told
// after that.
func (b *Bus) Settle(ctx context.Context, sequence uint64) error {
	if b.syncer == nil {
		return nil
	}
	return b.syncer.wait(ctx, sequence)
}

func (b *Bus) place(source string) *place {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.places[source]
	if p == nil {
		p = &place{}
		b.places[source] = p
	}
	return p
}

func compare(a, b *agentv1.Position) int {
	return cmp.Or(cmp.Compare(a.GetEpoch(), b.GetEpoch()), cmp.Compare(a.GetSequence(), b.GetSequence()))
}

func positionText(p *agentv1.Position) string {
	return strconv.FormatUint(p.GetEpoch(), 10) + "/" + strconv.FormatUint(p.GetSequence(), 10)
}

func parsePosition(text string) (*agentv1.Position, error) {
	left, right, _ := strings.Cut(text, "/")
	epoch, err1 := strconv.ParseUint(left, 10, 64)
	sequence, err2 := strconv.ParseUint(right, 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fault.New(fault.Corrupt, "read position %q: %w", text, err)
	}
	return &agentv1.Position{Epoch: epoch, Sequence: sequence}, nil
}
