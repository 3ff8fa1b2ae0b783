package bus

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
)

// consuming starts a Consume and gives what arrives and what it returned.
func consuming(ctx context.Context, b *Bus, from uint64) (<-chan Delivery, <-chan error) {
	got, ended := make(chan Delivery, 4096), make(chan error, 1)
	go func() {
		ended <- b.Consume(ctx, from, func(_ context.Context, batch []Delivery) error {
			for _, d := range batch {
				got <- d
			}
			return nil
		})
	}()
	return got, ended
}

func TestConsumeHandsOverASingleFrameAtOnce(t *testing.T) {
	b := openBus(t, testConfig(t.TempDir()))
	ctx, cancel := context.WithCancel(t.Context())
	got, ended := consuming(ctx, b, 1)
	// Each frame is published only when the one before was handled: a reader
	// that waits to fill a batch never gets to the second.
	for i := range uint64(50) {
		publish(t, b, frame("a", "r", 1, i+1))
		if d := <-got; d.Position.Sequence != i+1 {
			t.Fatalf("got frame %d, want %d", d.Position.Sequence, i+1)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Consume after the end of its context: %v", err)
	}
}

func TestConsumeSurvivesTheLossOfItsConsumer(t *testing.T) {
	b := openBus(t, testConfig(t.TempDir()))
	ctx, cancel := context.WithCancel(t.Context())
	got, ended := consuming(ctx, b, 1)
	const rounds, each = 4, 40
	next := uint64(0)
	for range rounds {
		for range each {
			next++
			publish(t, b, frame("a", "r", 1, next))
		}
		consumers := b.stream.ListConsumers(ctx)
		for info := range consumers.Info() {
			// It may have been made anew and deleted by the client meanwhile.
			if err := b.stream.DeleteConsumer(ctx, info.Name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
				t.Fatal(err)
			}
		}
	}
	for want := range uint64(rounds * each) {
		if d := <-got; d.Sequence != want+1 {
			t.Fatalf("got sequence %d, want %d", d.Sequence, want+1)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if len(got) > 0 {
		t.Errorf("%d frames came twice", len(got))
	}
}

func TestConsumeBeyondTheEndIsRefused(t *testing.T) {
	b := openBus(t, testConfig(t.TempDir()))
	publish(t, b, frame("a", "r", 1, 1))
	err := b.Consume(t.Context(), 3, func(context.Context, []Delivery) error { return nil })
	if !fault.Is(err, fault.Corrupt) || fault.HintOf(err) == "" {
		t.Errorf("error %v, hint %q", err, fault.HintOf(err))
	}
	ctx, cancel := context.WithCancel(t.Context())
	got, ended := consuming(ctx, b, 2)
	publish(t, b, frame("a", "r", 1, 2))
	if d := <-got; d.Sequence != 2 {
		t.Errorf("from the end on: sequence %d, want 2", d.Sequence)
	}
	cancel()
	<-ended
}

func TestConsumeEndsWhenTheBusIsClosed(t *testing.T) {
	b := openBus(t, testConfig(t.TempDir()))
	publish(t, b, frame("a", "r", 1, 1))
	got, ended := consuming(t.Context(), b, 1)
	<-got
	b.Close()
	if err := <-ended; !fault.Is(err, fault.Unavailable) {
		t.Errorf("Consume: %v, want kind unavailable", err)
	}
	if _, err := b.Publish(t.Context(), frame("a", "r", 1, 2)); !fault.Is(err, fault.Unavailable) {
		t.Errorf("Publish: %v, want kind unavailable", err)
	}
}

func TestConsumeSkipsWhatCannotBeRead(t *testing.T) {
	b := openBus(t, testConfig(t.TempDir()))
	for _, header := range []nats.Header{
		{},
		{headerPosition: {"1/x"}},
		{headerPosition: {"1/1"}, headerReceived: {"yesterday"}},
		{headerPosition: {"1/1"}, headerReceived: {"2026-01-02T03:04:05Z"}},
	} {
		msg := &nats.Msg{Subject: b.layout.subject("x", "r"), Header: header, Data: []byte("no batch")}
		if _, err := b.js.PublishMsg(t.Context(), msg); err != nil {
			t.Fatal(err)
		}
	}
	want := frame("a", "r", 1, 1)
	publish(t, b, want)
	if got := take(t, b, 1, 1); got[0].Sequence != 5 {
		t.Errorf("got sequence %d, want 5", got[0].Sequence)
	}
	if n := testutil.ToFloat64(b.skipped.WithLabelValues("damaged")); n != 4 {
		t.Errorf("counted %v damaged frames, want 4", n)
	}
}

func TestHistory(t *testing.T) {
	b := openBus(t, testConfig(t.TempDir()))
	for i := range uint64(600) {
		publish(t, b, frame("node-"+string('a'+rune(i%2)), []string{"one", "one.two", "*"}[i%3], 1, i+1))
	}
	for _, run := range []string{"one", "one.two", "*"} {
		var got []uint64
		err := b.History(t.Context(), run, false, func(d Delivery) error {
			if d.Batch.RunId != run {
				t.Errorf("history of %q has a frame of %q", run, d.Batch.RunId)
			}
			got = append(got, d.Sequence)
			return nil
		})
		if err != nil || len(got) != 200 {
			t.Errorf("history of %q: %d frames, %v", run, len(got), err)
		}
	}
	if err := b.History(t.Context(), "none", false, func(Delivery) error { return errEnough }); err != nil {
		t.Errorf("history of a run that there is not: %v", err)
	}
	if err := b.History(t.Context(), "one", false, func(Delivery) error { return errEnough }); !errors.Is(err, errEnough) {
		t.Errorf("error of yield: %v", err)
	}
}

func TestHistoryFollows(t *testing.T) {
	b := openBus(t, testConfig(t.TempDir()))
	publish(t, b, frame("a", "r", 1, 1))
	publish(t, b, frame("a", "other", 1, 2))
	ctx, cancel := context.WithCancel(t.Context())
	got, ended := make(chan uint64), make(chan error, 1)
	go func() {
		ended <- b.History(ctx, "r", true, func(d Delivery) error {
			got <- d.Sequence
			return nil
		})
	}()
	sequences := []uint64{<-got}
	for i := range uint64(3) {
		publish(t, b, frame("a", "r", 1, i+3))
		sequences = append(sequences, <-got)
	}
	if diff := cmp.Diff([]uint64{1, 3, 4, 5}, sequences); diff != "" {
		t.Error(diff)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestHistoryEndsWhenItsLastFrameIsDiscardedMeanwhile(t *testing.T) {
	b := openBus(t, testConfig(t.TempDir()))
	for i := range uint64(4) {
		publish(t, b, frame("a", "r", 1, i+1))
	}
	f, err := b.feed(t.Context(), 1, b.layout.ofRun("nothing"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.stop()
	if err := b.stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	messages, err := b.historyBatch(t.Context(), f, false, 4)
	if err != nil || messages != nil {
		t.Errorf("historyBatch = %v, %v; want the end", messages, err)
	}
}

func TestReadersLeaveNothingBehind(t *testing.T) {
	b := openBus(t, testConfig(t.TempDir()))
	publish(t, b, frame("a", "r", 1, 1))
	for range 5 {
		take(t, b, 1, 1)
	}
	testkit.Eventually(t, "the consumers to be deleted", func() bool {
		info, err := b.stream.Info(t.Context())
		return err == nil && info.State.Consumers == 0
	})
}
