package command_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/agent/command"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/testkit"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// desk is an executor whose orders a test answers.
type desk struct {
	*command.Executor
	stop func()

	mu     sync.Mutex
	orders []string
	answer func(ctx context.Context, id string) error
	told   []string
}

func (d *desk) Order(ctx context.Context, o *commonv1.CheckpointOrder, commandID, traceparent string, _ time.Time) error {
	d.mu.Lock()
	d.orders = append(d.orders, strings.Trim(commandID+" "+traceparent, " "))
	d.mu.Unlock()
	return d.answer(ctx, o.CheckpointId)
}

func (d *desk) results() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.told...)
}

func (d *desk) ordered() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.orders...)
}

func newDesk(t *testing.T, path string, answer func(ctx context.Context, id string) error) *desk {
	t.Helper()
	d := &desk{answer: answer}
	config := command.Defaults(path)
	config.Remember = 3
	d.Executor = command.New(config, command.Deps{
		Log: testkit.Logger(t), Metrics: prometheus.NewRegistry(), Clock: time.Now, FS: durable.OS{}, Saver: d, Keeper: d,
		Events: func(_ context.Context, run string, events ...*commonv1.Event) error {
			d.mu.Lock()
			defer d.mu.Unlock()
			for _, e := range events {
				r := e.GetCommandResult()
				text := run + " " + r.CommandId + " " + strings.TrimPrefix(r.Stage.String(), "COMMAND_STAGE_")
				d.told = append(d.told, strings.Trim(text+" "+r.Error, " "))
			}
			return nil
		},
	})
	group := life.NewGroup(context.Background())
	group.Go("executor", d.Run)
	d.stop = sync.OnceFunc(func() {
		group.Stop()
		if err := group.Wait(); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(d.stop)
	return d
}

func save(id, key string) *agentv1.Command {
	return &agentv1.Command{CommandId: id, IdempotencyKey: key, Traceparent: "trace", Deadline: timestamppb.New(time.Now().Add(time.Hour)),
		Verb: &agentv1.Command_Checkpoint{Checkpoint: &commonv1.CheckpointOrder{RunId: "run", CheckpointId: "ck-" + id}}}
}

func (d *desk) wait(t *testing.T, n int) {
	t.Helper()
	testkit.Eventually(t, fmt.Sprintf("%d results", n), func() bool { return len(d.results()) >= n })
}

func TestEachKeyIsDoneOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "commands.json")
	answer := func(_ context.Context, id string) error {
		if id == "ck-b" {
			return errors.New("no trainer")
		}
		return nil
	}
	d := newDesk(t, path, answer)
	d.Execute(t.Context(), save("a", "key-a"))
	d.wait(t, 2)
	d.Execute(t.Context(), save("b", "")) // its id is its key
	d.wait(t, 4)
	d.Execute(t.Context(), save("a2", "key-a"))
	d.wait(t, 5)
	d.stop()

	after := newDesk(t, path, answer) // the agent restarted
	after.Execute(t.Context(), save("b", "b"))
	after.wait(t, 1)
	want := []string{"run a ACCEPTED", "run a DONE", "run b ACCEPTED", "run b FAILED no trainer", "run a2 DONE", "run b FAILED no trainer"}
	if diff := cmp.Diff(want, append(d.results(), after.results()...)); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"a trace", "b trace"}, append(d.ordered(), after.ordered()...)); diff != "" {
		t.Errorf("orders (-want +got):\n%s", diff)
	}
	// Only the last three are remembered.
	for i := range 3 {
		after.Execute(t.Context(), save(fmt.Sprint("c", i), ""))
		after.wait(t, 3+2*i)
	}
	after.Execute(t.Context(), save("a3", "key-a"))
	after.wait(t, 9)
	if got := after.ordered(); got[len(got)-1] != "a3 trace" {
		t.Errorf("orders %v; want a key that was forgotten to be done again", got)
	}
}

func TestRepeatedWhileUnderWay(t *testing.T) {
	release := make(chan struct{})
	d := newDesk(t, filepath.Join(t.TempDir(), "c"), func(context.Context, string) error { <-release; return nil })
	for range 3 {
		d.Execute(t.Context(), save("a", "key"))
	}
	d.wait(t, 1)
	close(release)
	d.wait(t, 2)
	if diff := cmp.Diff([]string{"run a ACCEPTED", "run a DONE"}, d.results()); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
}

// What a stop interrupts is not remembered: it is done when it is sent again.
func TestStopForgetsWhatIsUnderWay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c")
	d := newDesk(t, path, func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() })
	d.Execute(t.Context(), save("a", "key"))
	testkit.Eventually(t, "the order", func() bool { return len(d.ordered()) == 1 })
	d.stop()
	after := newDesk(t, path, func(context.Context, string) error { return nil })
	after.Execute(t.Context(), save("a", "key"))
	after.wait(t, 2)
	if diff := cmp.Diff([]string{"run a ACCEPTED", "run a ACCEPTED", "run a DONE"}, append(d.results(), after.results()...)); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
}

func TestCommandsThatAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c")
	if err := os.WriteFile(path, []byte(`[{"idempotency_key`), 0o600); err != nil {
		t.Fatal(err)
	}
	d := newDesk(t, path, func(context.Context, string) error { return nil }) // bears a damaged file
	noRun := save("x", "")
	noRun.GetCheckpoint().RunId = "../x"
	for _, c := range []*agentv1.Command{nil, {}, {CommandId: "future"}, save("", "key"), noRun} {
		d.Execute(t.Context(), c)
	}
	d.Execute(t.Context(), save("good", ""))
	d.wait(t, 2)
	if diff := cmp.Diff([]string{"good trace"}, d.ordered()); diff != "" {
		t.Errorf("orders (-want +got):\n%s", diff)
	}
}

func TestTooManyCommands(t *testing.T) {
	dir := t.TempDir()
	var told []string
	e := command.New(command.Defaults(filepath.Join(dir, "c")), command.Deps{
		Log: testkit.Logger(t), Metrics: prometheus.NewRegistry(), Clock: time.Now, FS: durable.OS{},
		Events: func(_ context.Context, _ string, events ...*commonv1.Event) error {
			told = append(told, events[0].GetCommandResult().CommandId+" "+events[0].GetCommandResult().Error)
			return nil
		},
	}) // and nobody runs it
	for i := range 257 {
		e.Execute(t.Context(), save(fmt.Sprint(i), ""))
	}
	if diff := cmp.Diff([]string{"256 the agent has too many commands waiting"}, told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}

func TestConfigCheck(t *testing.T) {
	wrong := 0
	command.Config{}.Check(func(string, string, ...any) { wrong++ })
	if wrong != 2 {
		t.Errorf("%d mistakes; want 2", wrong)
	}
	command.Defaults("c").Check(func(key, format string, _ ...any) { t.Errorf("defaults: %s %s", key, format) })
}
