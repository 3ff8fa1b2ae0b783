package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
)

const (
	// sharedStream is the stream's name in a cluster.
	sharedStream = "VIGIL_EVENTS"
	// partitionsKey is where the stream keeps its number of partitions.
	partitionsKey = "vigil.partitions"
	// hintPrefix begins the subjects of hints. They are not in the stream.
	hintPrefix = "vigil.hint."

	reconnectWait = 250 * time.Millisecond
	setupRetry    = 500 * time.Millisecond
	publishTries  = 8
)

// join uses the stream of a cluster, and makes it where there is none.
func (b *Bus) join(ctx context.Context, config Config) (err error) {
	b.shared, b.layout = true, layout{config.Partitions}
	options := []nats.Option{nats.ReconnectWait(reconnectWait), nats.PingInterval(5 * time.Second), nats.MaxPingsOutstanding(2)}
	if config.Credentials != "" {
		options = append(options, nats.UserCredentials(config.Credentials))
	}
	secure, err := config.TLS.secure()
	if err != nil {
		return err
	}
	if secure != nil {
		options = append(options, nats.Secure(secure))
	}
	if err := b.connect(config.URL, options...); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	for {
		if err = b.openShared(ctx, config); err == nil || fault.Is(err, fault.Precondition) {
			return err
		}
		if !life.Sleep(ctx, setupRetry) { // a cluster that is starting has no leader yet
			return fault.New(fault.Unavailable, "open stream %s: %w", sharedStream, err)
		}
	}
}

func (b *Bus) openShared(ctx context.Context, config Config) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	want := streamConfig(config, b.layout)
	want.Name, want.Replicas = sharedStream, config.Replicas
	want.Metadata = map[string]string{partitionsKey: strconv.Itoa(config.Partitions)}
	stream, err := b.js.Stream(ctx, sharedStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = b.js.CreateStream(ctx, want)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another control plane was faster, or wants another one
			stream, err = b.js.Stream(ctx, sharedStream)
		}
	}
	if err != nil {
		return err
	}
	has := stream.CachedInfo().Config
	if is := has.Metadata[partitionsKey]; is != want.Metadata[partitionsKey] {
		return fault.WithHint(
			fault.New(fault.Precondition, "stream %s has %s partitions and bus.partitions is %d", sharedStream, is, config.Partitions),
			"the number is fixed when the stream is made: set bus.partitions to "+is)
	}
	if has.MaxBytes != want.MaxBytes || has.MaxAge != want.MaxAge || has.Replicas != want.Replicas {
		if stream, err = b.js.UpdateStream(ctx, want); err != nil {
			return err
		}
	}
	b.stream = stream
	return nil
}

// Shared tells whether other processes use the bus too.
func (b *Bus) Shared() bool { return b.shared }

// name is the stream's name.
func (b *Bus) name() string {
	if b.shared {
		return sharedStream
	}
	return streamName
}

// Hint tells the other control planes something that they would find out a
// little later by themselves. It may get lost. Without others it does nothing.
func (b *Bus) Hint(topic string, data []byte) {
	if !b.shared {
		return
	}
	if err := b.conn.Publish(hintPrefix+topic, data); err != nil {
		b.log.Debug("hint is lost", "topic", topic, "error", err)
	}
}

// OnHint calls a function for each hint of a topic, also our own, one at a time,
// until ctx ends. The function must not block.
func (b *Bus) OnHint(ctx context.Context, topic string, hear func(data []byte)) error {
	if !b.shared {
		<-ctx.Done()
		return nil
	}
	subscription, err := b.conn.Subscribe(hintPrefix+topic, func(m *nats.Msg) { hear(m.Data) })
	if err != nil {
		return fmt.Errorf("listen to hints: %w", err)
	}
	<-ctx.Done()
	_ = subscription.Unsubscribe() // the connection may be closed by now
	return nil
}
