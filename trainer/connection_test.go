package trainer_test

import (
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
	"github.com/vigil-ml/vigil/trainer"
	"github.com/vigil-ml/vigil/trainer/trainertest"
)

// lines collects what is logged.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), part)
}

// refusing gives an agent that refuses reports with a kind of error while
// there are refusals left, and a session with it.
func refusing(t *testing.T, kind fault.Kind) (agent *trainertest.Agent, s *trainer.Session, refused *atomic.Int64, said *lines) {
	t.Helper()
	refused, said = new(atomic.Int64), new(lines)
	refused.Store(4)
	agent = trainertest.New(t)
	agent.OnReport = func() error {
		if refused.Add(-1) >= 0 {
			return fault.New(kind, "write to disk: no")
		}
		return nil
	}
	agent.Start(t)
	s, err := trainer.Connect(t.Context(), trainer.Config{Socket: agent.Socket, RunID: "run-1", FlushInterval: time.Millisecond},
		trainer.Deps{Log: slog.New(slog.NewTextHandler(said, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = closeSoon(s) })
	return agent, s, refused, said
}

func TestAFullDiskOfTheAgentKeepsTheSession(t *testing.T) {
	agent, s, _, said := refusing(t, fault.Exhausted)
	s.Step(trainer.StepReport{Step: 1})
	s.Step(trainer.StepReport{Step: 2})
	testkit.Eventually(t, "the steps", func() bool { return slices.Equal(steps(agent), []int64{1, 2}) })
	testkit.Eventually(t, "the word that it goes on", func() bool { return said.count("takes reports again") == 1 })
	if n := len(agent.Registrations()); n != 1 {
		t.Errorf("registered %d times, want 1", n)
	}
	if said.count("the agent's disk is full") != 1 {
		t.Errorf("said %s", said.text.String())
	}
}

func TestAnAgentThatTakesNothingIsTriedLessAndLessOften(t *testing.T) {
	agent, s, _, said := refusing(t, fault.Internal)
	began := time.Now()
	s.Step(trainer.StepReport{Step: 1})
	testkit.Eventually(t, "the step", func() bool { return len(steps(agent)) == 1 })
	// Waits of 20, 40, 80 and 160 ms; never growing, they would be 80 in all.
	if elapsed := time.Since(began); elapsed < 250*time.Millisecond {
		t.Errorf("tried five times within %s", elapsed)
	}
	testkit.Eventually(t, "the word that it is back", func() bool { return said.count("the agent answers") == 1 })
	if said.count("no answer from the agent") != 1 {
		t.Errorf("said %s", said.text.String())
	}
}

func TestASupervisorLearnsTheNextAttempt(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	supervisor := func(c *trainer.Config) { c.Kind = trainerv1.SessionKind_SESSION_KIND_SUPERVISOR }
	if next := connect(t, agent, supervisor).NextAttempt(); next != 0 {
		t.Errorf("next attempt of a new run is %d, want 0", next)
	}
	connect(t, agent, nil) // attempt 2
	if next := connect(t, agent, supervisor).NextAttempt(); next != 3 {
		t.Errorf("next attempt is %d, want 3", next)
	}
}
