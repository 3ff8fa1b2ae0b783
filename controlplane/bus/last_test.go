package bus

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/vigil-ml/vigil/internal/fault"
)

// doubtful is a stream whose answers to "the last message" are not the truth.
type doubtful struct {
	jetstream.Stream
	last func(ctx context.Context, subject string) (*jetstream.RawStreamMsg, error)
}

func (d doubtful) GetLastMsgForSubject(ctx context.Context, subject string) (*jetstream.RawStreamMsg, error) {
	return d.last(ctx, subject)
}

// doubt has a bus get an answer from a stream in place of the truth.
func doubt(b *Bus, last func(context.Context, string) (*jetstream.RawStreamMsg, error)) (mend func()) {
	real := b.stream
	b.stream = doubtful{real, last}
	return func() { b.stream = real }
}

func notFound(context.Context, string) (*jetstream.RawStreamMsg, error) {
	return nil, jetstream.ErrMsgNotFound
}

// TestADoubtfulLastFrameIsAnError: a position that may be wrong is none. A frame
// that the stream has would be stored twice behind it.
func TestADoubtfulLastFrameIsAnError(t *testing.T) {
	b := openBus(t, testConfig(t.TempDir()))
	own := frame("a", "", 7, 1)
	own.Own = true
	publish(t, b, frame("a", "r", 1, 1))
	publish(t, b, own)
	publish(t, b, frame("a", "r", 1, 2))
	own.Position.Sequence = 2
	publish(t, b, own)
	first, err := b.stream.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	older := func(context.Context, string) (*jetstream.RawStreamMsg, error) { return first, nil }
	place := b.place(sourceOf("a", false))
	questions := map[string]func() error{
		"a connection": func() error { place.known = false; _, err := b.Last(t.Context(), "a"); return err },
		"a repeat": func() error {
			place.known = false
			_, err := b.Publish(t.Context(), frame("a", "r", 1, 2))
			return err
		},
		"our own word": func() error { _, _, err := b.LastOwn(t.Context(), "a"); return err },
	}
	for answer, last := range map[string]func(context.Context, string) (*jetstream.RawStreamMsg, error){
		"none": notFound, "an older one": older,
	} {
		mend := doubt(b, last)
		for name, ask := range questions {
			if err := ask(); !fault.Is(err, fault.Unavailable) {
				t.Errorf("%s, and the stream answers %s: got %v, want that it cannot be known", name, answer, err)
			}
		}
		mend()
		for name, ask := range questions {
			if err := ask(); err != nil {
				t.Errorf("%s, once the stream answers: %v", name, err)
			}
		}
	}
	mend := doubt(b, notFound)
	if _, err := b.LastOfRun(t.Context(), "r"); !fault.Is(err, fault.Unavailable) {
		t.Errorf("the last frame of a run that has some: got %v, want that it cannot be known", err)
	}
	if last, err := b.LastOfRun(t.Context(), "none"); last != 0 || err != nil {
		t.Errorf("the last frame of a run that has none is %d (%v)", last, err)
	}
	mend()
	// A process that has just started knows of nothing that it published.
	defer doubt(b, notFound)()
	clear(b.places)
	for name, ask := range map[string]func() error{
		"a connection": func() error { _, err := b.Last(t.Context(), "a"); return err },
		"our own word": func() error { _, _, err := b.LastOwn(t.Context(), "a"); return err },
	} {
		if err := ask(); !fault.Is(err, fault.Unavailable) {
			t.Errorf("%s after a restart: got %v, want that it cannot be known", name, err)
		}
	}
	if last, err := b.Last(t.Context(), "nobody"); err != nil || last.GetSequence() != 0 {
		t.Errorf("the last frame of a node that has none is %v (%v)", last, err)
	}
}

// TestDiscardedFramesAreForgotten: what is known of a node does not outlast its
// frames.
func TestDiscardedFramesAreForgotten(t *testing.T) {
	b := openBus(t, testConfig(t.TempDir()))
	publish(t, b, frame("a", "r", 1, 1))
	if err := b.stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := b.place(sourceOf("a", false))
	p.known = false
	if last, err := b.Last(t.Context(), "a"); err != nil || last.GetSequence() != 0 {
		t.Errorf("the last frame is %v (%v), and all are discarded", last, err)
	}
}

// TestAServerThatIsGoneIsAskedAgain: the answer to a question may have died with
// the server that was to give it.
func TestAServerThatIsGoneIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		b := &Bus{shared: true, stream: doubtful{last: func(ctx context.Context, _ string) (*jetstream.RawStreamMsg, error) {
			if asked++; asked < 3 {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return &jetstream.RawStreamMsg{Sequence: 5}, nil
		}}}
		if raw, err := b.newest(t.Context(), "s", 0); err != nil || raw.Sequence != 5 {
			t.Errorf("got %v (%v)", raw, err)
		}
		asked = math.MinInt
		begin := time.Now()
		if _, err := b.newest(t.Context(), "s", 0); !fault.Is(err, fault.Unavailable) || time.Since(begin) != askTimeout {
			t.Errorf("got %v after %s, want that nobody answers after %s", err, time.Since(begin), askTimeout)
		}
	})
}
