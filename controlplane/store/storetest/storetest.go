// Package storetest is what every engine below the store must do. An engine's
// test opens it and calls [Run].
package storetest

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
)

// Open opens an empty store, with Deps.Exports, for a test and closes it after
// the test.
type Open func(t *testing.T, clock func() time.Time) *store.Store

// Run runs the suite.
func Run(t *testing.T, open Open) {
	for _, part := range parts() {
		t.Run(part.name, func(t *testing.T) {
			clock := &clock{now: start}
			part.test(t, &bench{T: t, store: open(t, clock.Now), clock: clock})
		})
	}
}

// part is one test of the suite.
type part struct {
	name string
	test func(*testing.T, *bench)
}

func parts() []part {
	return []part{
		{"nodes", testNodes},
		{"runs", testRuns},
		{"first open sequence", testFirstOpenSequence},
		{"attempts", testAttempts},
		{"cursor", testCursor},
		{"commands", testCommands},
		{"command states only advance", testCommandStates},
		{"what waits", testBacklog},
		{"checkpoints", testCheckpoints},
		{"checkpoint advance", testAdvance},
		{"checkpoint changes", testChanges},
		{"tasks", testTasks},
		{"agreement", testAgreement},
		{"people", testPeople},
		{"keys of the records", testRecordKeys},
		{"records are encrypted anew", testReseal},
		{"findings", testFindings},
		{"finding records and feedback", testFeedback},
		{"incidents", testIncidentRecords},
		{"problems of nodes", testNodeProblems},
		{"replay marks", testReplayMarks},
		{"timeline", testTimeline},
		{"awaited checkpoints", testAwaited},
		{"outbox order", testOutboxOrder},
		{"outbox stories", testOutboxStories},
		{"outbox lease", testOutboxLease},
		{"outbox leaves receivers out", testOutboxExcept},
		{"outbox release", testOutboxRelease},
		{"outbox retry and fail", testOutboxRetry},
		{"outbox senders", testOutboxSenders},
		{"outbox groups", testOutboxGroup},
		{"alert groups", testAlertGroups},
		{"many new incidents", testManyNew},
		{"many findings", testManyFindings},
		{"changed finding", testChangedFinding},
		{"inhibitors", testInhibitors},
		{"silences", testSilences},
		{"timers", testTimers},
		{"external alerts", testExternal},
		{"external alerts that were put", testExternalPut},
		{"outbox folds tries", testOutboxFolds},
		{"outbox put back", testOutboxPutBack},
		{"outbox stand-in", testOutboxStandIn},
		{"dead letters", testDeadLetters},
		{"receiver memory", testMemory},
		{"export records", testExports},
		{"telemetry is bounded", testTelemetry},
		{"old records", testExpire},
		{"nothing is found", testNotFound},
		{"rollback", testRollback},
		{"a dropped error", testDroppedError},
		{"changed", testChanged},
		{"concurrent updates", testConcurrent},
	}
}

// start is when every test begins.
var start = time.Date(2026, 3, 1, 3, 12, 0, 0, time.UTC)

// at is so many milliseconds after start.
func at(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }

func stamp(ms int) *timestamppb.Timestamp { return timestamppb.New(at(ms)) }

// clock stands still until it is told to go on.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

// Now is the time.
func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// bench is a test with its store.
type bench struct {
	*testing.T
	store *store.Store
	clock *clock
}

// update runs a transaction that must succeed.
func (b *bench) update(do func(*store.Tx) error) {
	b.Helper()
	if err := b.store.Update(b.Context(), do); err != nil {
		b.Fatalf("update: %v", err)
	}
}

// view runs a reading transaction that must succeed.
func (b *bench) view(do func(*store.Tx) error) {
	b.Helper()
	if err := b.store.View(b.Context(), do); err != nil {
		b.Fatalf("view: %v", err)
	}
}

// same compares what is there with what is wanted.
func (b *bench) same(what string, got, want any) {
	b.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		b.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func testNotFound(t *testing.T, b *bench) {
	getters := map[string]func(*store.Tx) error{
		"node":          func(tx *store.Tx) error { _, err := tx.Node("x"); return err },
		"run":           func(tx *store.Tx) error { _, err := tx.Run("x"); return err },
		"attempt":       func(tx *store.Tx) error { _, err := tx.Attempt("x", 1); return err },
		"checkpoint":    func(tx *store.Tx) error { _, err := tx.Checkpoint("x"); return err },
		"command":       func(tx *store.Tx) error { _, err := tx.Command("x"); return err },
		"command state": func(tx *store.Tx) error { return tx.SetCommandState("x", store.CommandDone, "") },
		"incident":      func(tx *store.Tx) error { _, err := tx.Incident("x"); return err },
		"record":        func(tx *store.Tx) error { _, err := tx.IncidentRecord("x"); return err },
		"cause":         func(tx *store.Tx) error { _, err := tx.Cause("x"); return err },
		"awaited":       func(tx *store.Tx) error { _, err := tx.Awaited("x"); return err },
	}
	for name, get := range getters {
		if err := b.store.Update(t.Context(), get); !fault.Is(err, fault.NotFound) {
			t.Errorf("%s: got %v, want an error of kind not found", name, err)
		}
	}
}

func testRollback(t *testing.T, b *bench) {
	want := errors.New("planted")
	changed := b.store.Changed(store.TopicRuns)
	err := b.store.Update(t.Context(), func(tx *store.Tx) error {
		if err := tx.PutRun(run("r", 1), 1); err != nil {
			return err
		}
		return want
	})
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want the function's error", err)
	}
	func() {
		defer func() { _ = recover() }()
		_ = b.store.Update(t.Context(), func(tx *store.Tx) error {
			_ = tx.PutRun(run("r", 1), 1)
			panic("planted")
		})
	}()
	b.view(func(tx *store.Tx) error {
		runs, err := tx.Runs(0)
		b.same("runs after rollback", len(runs), 0)
		return err
	})
	select {
	case <-changed:
		t.Error("a transaction that was rolled back woke those who wait")
	default:
	}
}

// testDroppedError: what a function makes of a statement that failed, and whether
// it says so, does not matter: nothing runs behind it, and nothing is kept.
func testDroppedError(t *testing.T, b *bench) {
	b.update(func(tx *store.Tx) error {
		_, err := tx.InsertCommand(command("taken", "n", 0, 1))
		return err
	})
	for name, then := range map[string]func(error) error{
		"dropped":      func(error) error { return nil },
		"another":      func(error) error { return errors.New("planted") },
		"wrapped":      func(err error) error { return fmt.Errorf("planted: %w", err) },
		"not found":    func(error) error { return fault.New(fault.NotFound, "planted") },
		"as it stands": func(err error) error { return err },
	} {
		var cause error
		err := b.store.Update(b.Context(), func(tx *store.Tx) error {
			if err := tx.PutRun(run("r", 1), 1); err != nil {
				return err
			}
			other := command("taken", "n", 0, 1)
			other.IdempotencyKey = "other"
			if _, cause = tx.InsertCommand(other); cause == nil {
				t.Fatal("two commands have one id")
			}
			if tx.Err() == nil || !errors.Is(cause, tx.Err()) {
				t.Errorf("%s: the transaction's error is %v, want %v", name, tx.Err(), cause)
			}
			_, listed := tx.Checkpoints("r", 0)
			_, found := tx.Run("x")
			for what, err := range map[string]error{"list": listed, "find": found, "put": tx.SetCursor("c", 1)} {
				if !errors.Is(err, tx.Err()) {
					t.Errorf("%s: to %s something afterwards gives %v, want %v", name, what, err, tx.Err())
				}
			}
			cause = tx.Err()
			return then(cause)
		})
		if !errors.Is(err, cause) {
			t.Errorf("%s: got %v, want %v", name, err, cause)
		}
	}
	b.view(func(tx *store.Tx) error {
		runs, err := tx.Runs(0)
		b.same("runs", len(runs), 0)
		return err
	})
}

func testChanged(t *testing.T, b *bench) {
	runs, nodes := b.store.Changed(store.TopicRuns), b.store.Changed(store.TopicCommands)
	b.update(func(tx *store.Tx) error {
		err := tx.PutRun(run("r", 1), 1)
		select {
		case <-runs:
			t.Error("woken before the commit")
		default:
		}
		return err
	})
	select {
	case <-runs:
	default:
		t.Error("not woken after the commit")
	}
	select {
	case <-nodes:
		t.Error("woken by another topic")
	case <-b.store.Changed(store.TopicRuns):
		t.Error("the next channel is closed already")
	default:
	}
}

// testConcurrent has writers that each read a number and write the next one,
// while readers check that they never see half a transaction.
func testConcurrent(t *testing.T, b *bench) {
	const writers, updates = 4, 25
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range updates {
				err := b.store.Update(t.Context(), func(tx *store.Tx) error {
					n, err := tx.Cursor("left")
					return errors.Join(err, tx.SetCursor("left", n+1), tx.SetCursor("right", n+1))
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for range updates {
				err := b.store.View(t.Context(), func(tx *store.Tx) error {
					left, errLeft := tx.Cursor("left")
					right, errRight := tx.Cursor("right")
					if left != right {
						return fmt.Errorf("saw %d and %d", left, right)
					}
					return errors.Join(errLeft, errRight)
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.view(func(tx *store.Tx) error {
		n, err := tx.Cursor("left")
		b.same("updates", n, uint64(writers*updates))
		return err
	})
}
