package bus

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"

	"github.com/vigil-ml/vigil/internal/fault"
)

const (
	// fetchBytes bounds what one reader has asked for and not handled yet.
	fetchBytes = 4 * maxPayloadBytes
	// readerTimeout is when JetStream forgets a reader that went away. A reader
	// whose handler took longer than that is made anew and misses nothing.
	readerTimeout = 30 * time.Second
)

// feed is one ordered consumer. JetStream's client makes it anew, from the
// message behind the last, whenever messages are missing or the server forgot
// it.
type feed struct {
	messages chan message
	closed   <-chan struct{}
	stop     func()
}

// message is one stored message that is not decoded yet.
type message struct {
	raw      jetstream.Msg
	sequence uint64
}

// feed starts reading at a sequence, or at the first message behind it that
// exists. Whoever calls it calls stop.
func (b *Bus) feed(ctx context.Context, from uint64, filters ...string) (*feed, error) {
	consumer, err := b.js.OrderedConsumer(ctx, b.name(), jetstream.OrderedConsumerConfig{
		FilterSubjects:    filters,
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       from,
		InactiveThreshold: readerTimeout,
	})
	if err != nil {
		return nil, fault.New(fault.Unavailable, "open reader of the bus: %w", err)
	}
	f := &feed{messages: make(chan message, MaxDeliveries)}
	ctx, cancel := context.WithCancel(ctx)
	reading, err := consumer.Consume(func(raw jetstream.Msg) {
		meta, err := raw.Metadata()
		if err != nil {
			b.log.Error("message on the bus has no metadata and is skipped", "subject", raw.Subject(), "error", err)
			return
		}
		select {
		case f.messages <- message{raw: raw, sequence: meta.Sequence.Stream}:
		case <-ctx.Done():
		}
	}, jetstream.PullMaxMessagesWithBytesLimit(MaxDeliveries, fetchBytes),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
			b.log.Debug("reader of the bus is made anew", "error", err)
		}))
	if err != nil {
		cancel()
		return nil, fault.New(fault.Unavailable, "start reader of the bus: %w", err)
	}
	f.closed = reading.Closed()
	f.stop = func() {
		cancel()
		reading.Stop()
		b.forget(ctx, consumer)
	}
	return f, nil
}

// forget has JetStream drop a reader's state now; where that cannot be, it is
// dropped after readerTimeout.
func (b *Bus) forget(ctx context.Context, consumer jetstream.Consumer) {
	if info := consumer.CachedInfo(); info != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
		defer cancel()
		_ = b.stream.DeleteConsumer(ctx, info.Name)
	}
}

// batch waits for one message and takes with it those that are there already.
func (f *feed) batch(ctx context.Context) ([]message, error) {
	var batch []message
	select {
	case m := <-f.messages:
		batch = append(batch, m)
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-f.closed:
		return nil, fault.New(fault.Unavailable, "read the bus: it was closed")
	}
	for len(batch) < MaxDeliveries {
		select {
		case m := <-f.messages:
			batch = append(batch, m)
		default:
			return batch, nil
		}
	}
	return batch, nil
}

// delivery decodes a message.
func (b *Bus) delivery(m message) (Delivery, error) {
	return b.layout.decode(m.raw.Subject(), m.raw.Headers(), m.raw.Data(), m.sequence)
}

func (l layout) decode(subject string, header nats.Header, data []byte, sequence uint64) (Delivery, error) {
	node, own, err := l.node(subject)
	if err != nil {
		return Delivery{}, err
	}
	position, err := parsePosition(header.Get(headerPosition))
	if err != nil {
		return Delivery{}, err
	}
	received, err := time.Parse(time.RFC3339Nano, header.Get(headerReceived))
	if err != nil {
		return Delivery{}, fmt.Errorf("read time of arrival: %w", err)
	}
	batch := &agentv1.EventBatch{}
	if err := proto.Unmarshal(data, batch); err != nil {
		return Delivery{}, fmt.Errorf("unmarshal batch: %w", err)
	}
	return Delivery{Sequence: sequence, Message: Message{
		Node: node, Own: own, Position: position, Received: received, Batch: batch,
	}}, nil
}
