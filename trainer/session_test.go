package trainer_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/protocol"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
	"github.com/vigil-ml/vigil/trainer"
	"github.com/vigil-ml/vigil/trainer/trainertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// connect opens a session with an agent that runs, and closes it at the end.
func connect(t *testing.T, agent *trainertest.Agent, change func(*trainer.Config)) *trainer.Session {
	t.Helper()
	config := trainer.Config{
		Socket: agent.Socket, RunID: "run-1", Attempt: 2, Rank: 1, WorldSize: 4,
		Framework: "test/1", Name: "tiny", FlushInterval: 5 * time.Millisecond, CallTimeout: 300 * time.Millisecond,
	}
	if change != nil {
		change(&config)
	}
	s, err := trainer.Connect(t.Context(), config, trainer.Deps{Log: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = closeSoon(s) })
	return s
}

func closeSoon(s *trainer.Session) error {
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	return s.Close(ctx)
}

func steps(agent *trainertest.Agent) []int64 {
	var got []int64
	for _, event := range agent.Events() {
		if step := event.GetStep(); step != nil {
			got = append(got, step.GetStep())
		}
	}
	return got
}

func TestStepsArriveInOrderWithAllThatWasMeasured(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	s := connect(t, agent, nil)
	tasks := []trainer.Task{{Name: "left", Loss: trainer.Known(1.5)}, {Name: "right", Weight: trainer.Known(0.5)}}
	for n := range int64(500) {
		tasks[0].Loss = trainer.Known(float64(n)) // Step must have copied the list
		s.Step(trainer.StepReport{Step: n + 1, Loss: trainer.Known(0.0), Tasks: tasks, StepTime: trainer.Known(250 * time.Millisecond)})
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := steps(agent)
	if len(got) != 500 || !slices.IsSorted(got) {
		t.Fatalf("got %d steps, sorted %v; want 500 in order", len(got), slices.IsSorted(got))
	}
	ids := map[string]bool{}
	for n, event := range agent.Events() {
		ids[event.GetEventId()] = true
		if event.GetRunId() != "run-1" || event.GetAttempt() != 2 || event.GetRank() != 1 || event.GetTime() == nil || event.GetTraceparent() != "" {
			t.Fatalf("event is not stamped: %v", event)
		}
		step := event.GetStep()
		if diff := cmp.Diff(map[string]float64{"left": float64(n)}, step.GetTaskLosses()); diff != "" {
			t.Fatalf("task losses of step %d: %s", n+1, diff)
		}
		if step.Loss == nil || step.GetLoss() != 0 || step.GradientNorm != nil || step.GetStepSeconds() != 0.25 || step.GetTaskWeights()["right"] != 0.5 {
			t.Fatalf("step is %v", step)
		}
	}
	if len(ids) != 500 {
		t.Errorf("%d different event ids, want 500", len(ids))
	}
}

func TestRegistersWithWhatItIs(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	s := connect(t, agent, func(c *trainer.Config) { c.Settings = map[string]string{"seed": "7"} })
	if !s.Connected() {
		t.Fatal("Connect returned without a session although the agent runs")
	}
	r := agent.Registrations()[0]
	if r.GetRunId() != "run-1" || r.GetAttempt() != 2 || r.GetRank() != 1 || r.GetTrainer().GetWorldSize() != 4 ||
		r.GetTrainer().GetPid() != int64(os.Getpid()) || r.GetTrainer().GetSettings()["seed"] != "7" {
		t.Errorf("registered as %v", r)
	}
}

func TestHungAgentDropsTheOldestStepsAndCounts(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	agent.Hang()
	s := connect(t, agent, func(c *trainer.Config) { c.QueueSteps = 50 })
	const total = 20_000 // must exceed queue and batch together
	for n := range int64(total) {
		s.Step(trainer.StepReport{Step: n + 1})
	}
	s.Report(&commonv1.Event{Body: &commonv1.Event_Resumed{Resumed: &commonv1.Resumed{Step: 1}}})
	agent.Resume()
	testkit.Eventually(t, "the newest step and the event", func() bool {
		events := agent.Events()
		return len(events) > 0 && events[len(events)-1].GetResumed() != nil
	})
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := steps(agent)
	if got[len(got)-1] != total {
		t.Errorf("the newest step that arrived is %d, want %d: the oldest are dropped", got[len(got)-1], total)
	}
	different := map[int64]bool{}
	for _, step := range got {
		different[step] = true
	}
	if agent.Dropped() == 0 || int64(len(different))+agent.Dropped() != total {
		t.Errorf("%d arrived and the agent knows of %d drops; together they must be %d", len(different), agent.Dropped(), total)
	}
}

func TestGoesOnAfterARestartOfTheAgent(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	s := connect(t, agent, nil)
	s.Step(trainer.StepReport{Step: 1})
	testkit.Eventually(t, "step 1", func() bool { return len(steps(agent)) == 1 })
	agent.Stop()
	testkit.Eventually(t, "the loss of the session", func() bool { return !s.Connected() })
	s.Step(trainer.StepReport{Step: 2})
	agent.Start(t)
	testkit.Eventually(t, "step 2", func() bool { return len(steps(agent)) == 2 })
	if n := len(agent.Registrations()); n != 2 {
		t.Errorf("registered %d times, want 2", n)
	}
	if told := agent.Order("d1", &commonv1.CheckpointOrder{RunId: "run-1", CheckpointId: "c1"}); told != 1 {
		t.Fatalf("%d processes watch, want 1", told)
	}
	testkit.Eventually(t, "the order by the new watch", func() bool { return s.PendingOrder() != nil })
}

func TestFindsAnAgentThatComesLater(t *testing.T) {
	agent := trainertest.New(t)
	s := connect(t, agent, nil)
	s.Step(trainer.StepReport{Step: 1})
	agent.Start(t)
	testkit.Eventually(t, "the step from before", func() bool { return len(steps(agent)) == 1 })
}

func TestWithoutAnAgentEverythingIsQuiet(t *testing.T) {
	for name, socket := range map[string]string{"no socket": "", "nobody listens": filepath.Join(t.TempDir(), "none.sock")} {
		t.Run(name, func(t *testing.T) {
			var said strings.Builder
			s, err := trainer.Connect(t.Context(), trainer.Config{Socket: socket, RunID: "r"},
				trainer.Deps{Log: slog.New(slog.NewTextHandler(&said, nil))})
			if err != nil {
				t.Fatal(err)
			}
			s.Step(trainer.StepReport{Step: 1})
			order := s.NonFinite(t.Context(), &commonv1.NonFinite{Step: 2})
			if order == nil || order.CheckpointID != "" || !order.Ends() || order.Reason != commonv1.CheckpointReason_CHECKPOINT_REASON_REFLEX {
				t.Errorf("order is %+v, want the process' own", order)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if _, err := s.Save(ctx, order, &commonv1.CheckpointMetadata{}, nil); !fault.Is(err, fault.Unavailable) {
				t.Errorf("Save = %v, want unavailable", err)
			}
			ref, _, err := s.Resume(ctx)
			if ref != nil || (socket == "") != (err == nil) {
				t.Errorf("Resume = %v, %v; an agent that should be there and is not is an error", ref, err)
			}
			if s.PendingOrder() != nil || s.Connected() {
				t.Error("an order or a connection from nowhere")
			}
			if err := s.Close(t.Context()); (socket == "") != (err == nil) {
				t.Errorf("Close = %v", err)
			}
			if lines := strings.Count(said.String(), "\n"); lines != 1 {
				t.Errorf("said %d lines, want 1:\n%s", lines, said.String())
			}
		})
	}
}

func TestRunEndedIsToldToTheSupervisorOnceItArrived(t *testing.T) {
	for _, arrives := range []bool{true, false} {
		agent := trainertest.New(t)
		agent.Start(t)
		file := filepath.Join(t.TempDir(), "exit.json")
		s := connect(t, agent, func(c *trainer.Config) { c.ExitFile = file })
		if !arrives {
			agent.Hang()
		}
		s.RunEnded(&commonv1.RunEnded{Outcome: commonv1.Outcome_OUTCOME_SUCCEEDED, ParametersSha256: "ab"})
		if err := closeSoon(s); (err == nil) != arrives {
			t.Errorf("Close = %v with arrives %v", err, arrives)
		}
		var report protocol.ExitReport
		data, err := os.ReadFile(file)
		if (err == nil) != arrives {
			t.Fatalf("exit file: %v with arrives %v", err, arrives)
		}
		if arrives && (json.Unmarshal(data, &report) != nil || !report.Stop) {
			t.Errorf("exit report is %s", data)
		}
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	for want, config := range map[string]trainer.Config{
		"VIGIL_RUN_ID":     {Socket: "/x"},
		"rank 4 of 4":      {RunID: "r", Rank: 4, WorldSize: 4},
		"not be negative":  {RunID: "r", QueueSteps: -1},
		"rank 1 of 1 rank": {RunID: "r", Rank: 1},
	} {
		if _, err := trainer.Connect(t.Context(), config, trainer.Deps{}); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("Connect(%+v) = %v, want invalid with %q", config, err, want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	env := map[string]string{
		"VIGIL_SOCKET": "/s", "VIGIL_RUN_ID": "r", "VIGIL_ATTEMPT": "3", "VIGIL_EXIT_FILE": "/e", "RANK": "1", "WORLD_SIZE": "2",
	}
	got, err := trainer.FromEnvironment(func(key string) string { return env[key] })
	want := trainer.Config{Socket: "/s", RunID: "r", Attempt: 3, ExitFile: "/e", Rank: 1, WorldSize: 2}
	if err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("FromEnvironment: %v %s", err, cmp.Diff(want, got))
	}
	env["WORLD_SIZE"] = "many"
	if _, err := trainer.FromEnvironment(func(key string) string { return env[key] }); err == nil || !strings.Contains(err.Error(), `WORLD_SIZE is "many"`) {
		t.Errorf("FromEnvironment = %v", err)
	}
}

func TestAProcessWhoseRankWasTakenOverKeepsQuiet(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	old := connect(t, agent, nil)
	connect(t, agent, nil) // the same run and rank
	testkit.Eventually(t, "the old session to be gone", func() bool { return !old.Connected() })
	old.Step(trainer.StepReport{Step: 1})
	if err := old.Close(context.Background()); !fault.Is(err, fault.Unavailable) {
		t.Errorf("Close = %v, want unavailable", err)
	}
	if n := len(agent.Registrations()); n != 2 {
		t.Errorf("registered %d times; the two fight for the rank", n)
	}
}

func TestEventsThatCannotBeSentDoNotStopTheRest(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	s := connect(t, agent, nil)
	s.RunEnded(&commonv1.RunEnded{Explanation: "not \xff text"})
	s.Step(trainer.StepReport{Step: 1, Tasks: []trainer.Task{{Name: "\xff", Loss: trainer.Known(1.0)}}})
	s.Step(trainer.StepReport{Step: 2})
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := steps(agent); !slices.Equal(got, []int64{2}) || agent.Dropped() != 2 {
		t.Errorf("steps %v arrived, the agent knows of %d drops", got, agent.Dropped())
	}
}

func TestTheLastStepIsLeftForTheSupervisor(t *testing.T) {
	file := filepath.Join(t.TempDir(), "exit.json")
	s, err := trainer.Connect(t.Context(), trainer.Config{RunID: "r", ExitFile: file}, trainer.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	if _, known := trainer.ReadProgress(file); known {
		t.Error("a step is known before there was one")
	}
	s.Resumed(&commonv1.CheckpointRef{CheckpointId: "ck", Metadata: &commonv1.CheckpointMetadata{Step: 40}})
	testkit.Eventually(t, "the step resumed from", func() bool {
		p, known := trainer.ReadProgress(file)
		return known && p.Step == 40
	})
	s.Step(trainer.StepReport{Step: 41})
	testkit.Eventually(t, "the step, while the process lives", func() bool {
		p, known := trainer.ReadProgress(file)
		return known && p.Step == 41
	})
	s.Step(trainer.StepReport{Step: 42, GPUBytes: trainer.Known(int64(7))})
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p, known := trainer.ReadProgress(file); !known || p != (trainer.Progress{Step: 42, Resumed: "ck", GPUBytes: 7}) {
		t.Errorf("progress is %+v, %v; want step 42", p, known)
	}
}

func TestSupervisorGetsNoDirectives(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	s := connect(t, agent, func(c *trainer.Config) { c.Kind = trainerv1.SessionKind_SESSION_KIND_SUPERVISOR })
	if told := agent.Order("d", &commonv1.CheckpointOrder{}); told != 0 {
		t.Errorf("%d processes were told", told)
	}
	s.SetAttempt(5)
	s.Report(&commonv1.Event{Body: &commonv1.Event_AttemptStarted{AttemptStarted: &commonv1.AttemptStarted{}}})
	testkit.Eventually(t, "the event", func() bool { return len(agent.Events()) == 1 })
	if got := agent.Events()[0].GetAttempt(); got != 5 {
		t.Errorf("event is of attempt %d, want 5", got)
	}
}
