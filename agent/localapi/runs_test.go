package localapi_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

func supervisor(run string) *trainerv1.RegisterRequest {
	return &trainerv1.RegisterRequest{RunId: run, Kind: trainerv1.SessionKind_SESSION_KIND_SUPERVISOR}
}

// quietWatch is a watch without a socket.
type quietWatch struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // as grpc-go's own streams have it
}

func (w quietWatch) Context() context.Context                      { return w.ctx }
func (w quietWatch) Send(*trainerv1.WatchDirectivesResponse) error { return nil }

// process registers and watches until die.
func (n *node) process(in *trainerv1.RegisterRequest) (session string, die func()) {
	n.t.Helper()
	out, err := n.api.Register(n.t.Context(), in)
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = n.api.WatchDirectives(&trainerv1.WatchDirectivesRequest{SessionId: out.SessionId}, quietWatch{ctx: ctx})
	}()
	synctest.Wait()
	return out.SessionId, func() {
		cancel()
		<-ended
	}
}

func (n *node) say(session string, event *commonv1.Event) {
	n.t.Helper()
	_, err := n.api.Report(n.t.Context(), &trainerv1.ReportRequest{SessionId: session, Events: []*commonv1.Event{event}})
	if err != nil {
		n.t.Fatal(err)
	}
}

// endings gives how a run ended, as often as it did.
func (n *node) endings(run string) (endings []string) {
	for _, e := range n.list(run) {
		if end := e.GetRunEnded(); end != nil {
			endings = append(endings, fmt.Sprintf("%s at %d, attempt %d: %s", end.Outcome, end.Step, e.Attempt, end.Explanation))
		}
	}
	return endings
}

// watched runs body in a bubble with a node that looks for lost runs.
func watched(t *testing.T, body func(t *testing.T, n *node)) {
	synctest.Test(t, func(t *testing.T) {
		n := makeNode(t)
		n.stop()
		ctx, cancel := context.WithCancel(context.Background())
		stopped := make(chan error, 1)
		go func() { stopped <- n.api.WatchRuns(ctx) }()
		body(t, n)
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

func TestLostRunsEnd(t *testing.T) {
	pid := registration("run", 0).Trainer.Pid
	lost := fmt.Sprintf("[OUTCOME_FAILED at 41, attempt 4: process %d went away and nobody started it again]", pid)
	for _, tc := range []struct {
		name string
		do   func(n *node, session string, die func())
		want string
	}{
		{"killed", func(_ *node, _ string, die func()) { die() }, lost},
		{"alive", func(*node, string, func()) {}, "[]"},
		{"another rank lives", func(n *node, _ string, die func()) {
			_, other := n.process(registration("run", 1))
			n.t.Cleanup(other)
			die()
		}, "[]"},
		{"said that it ended", func(n *node, session string, die func()) {
			n.say(session, &commonv1.Event{Body: &commonv1.Event_RunEnded{RunEnded: &commonv1.RunEnded{Step: 41, Explanation: "done"}}})
			die()
		}, "[OUTCOME_UNSPECIFIED at 41, attempt 4: done]"},
		{"started again in time", func(n *node, _ string, die func()) {
			die()
			time.Sleep(50 * time.Second)
			_, again := n.process(registration("run", 0))
			n.t.Cleanup(again)
		}, "[]"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			watched(t, func(t *testing.T, n *node) {
				session, die := n.process(registration("run", 0))
				n.say(session, &commonv1.Event{Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: 41}}})
				tc.do(n, session, die)
				time.Sleep(55 * time.Second)
				if got := n.endings("run"); tc.name == "killed" && len(got) > 0 {
					t.Errorf("too early: %v", got)
				}
				time.Sleep(10 * time.Minute)
				if got := fmt.Sprint(n.endings("run")); got != tc.want {
					t.Errorf("endings %s; want %s", got, tc.want)
				}
				die()
			})
		})
	}
}

// A supervisor has no watch: that its connection ends says that it is gone,
// and the run is lost only when its trainers are too.
func TestSupervisorsConnectionIsItsLife(t *testing.T) {
	n := serve(t)
	conn := dial(t, n.socket)
	out, err := trainerv1.NewTrainerServiceClient(conn).Register(t.Context(), supervisor("run"))
	if err != nil {
		t.Fatal(err)
	}
	if !n.sessions.Present("run") {
		t.Fatal("a supervisor is not there")
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the supervisor to be gone", func() bool { return !n.sessions.Present("run") })
	// On another connection it is back: gRPC dials anew as it likes.
	if _, err := n.client.Report(t.Context(), &trainerv1.ReportRequest{SessionId: out.SessionId}); err != nil || !n.sessions.Present("run") {
		t.Errorf("a supervisor that speaks is not there: %v", err)
	}
}

// What an agent knew of a run's attempts, the next one knows.
func TestAttemptsGoOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "runs")
	next := func(n *node) (next string) {
		for _, run := range []string{"trained", "supervised", "new"} {
			out, err := n.api.Register(t.Context(), supervisor(run))
			if err != nil {
				t.Fatal(err)
			}
			next += fmt.Sprint(out.NextAttempt, " ")
		}
		return next
	}
	first := makeNode(t)
	first.api.LoadRuns(path)
	if got := next(first); got != "0 0 0 " {
		t.Errorf("attempts of runs that nobody saw: %s", got)
	}
	for _, attempt := range []uint32{3, 1} {
		in := registration("trained", 0)
		in.Attempt = attempt
		out, err := first.api.Register(t.Context(), in)
		if err != nil || out.NextAttempt != 0 {
			t.Fatalf("a trainer is told %v, %v", out, err)
		}
	}
	out, err := first.api.Register(t.Context(), supervisor("supervised"))
	if err != nil {
		t.Fatal(err)
	}
	first.say(out.SessionId, &commonv1.Event{Attempt: 7, Body: &commonv1.Event_AttemptStarted{AttemptStarted: &commonv1.AttemptStarted{Pid: 5}}})
	first.say(out.SessionId, &commonv1.Event{Attempt: 7, Body: &commonv1.Event_RunEnded{RunEnded: &commonv1.RunEnded{}}})
	if got := next(first); got != "4 8 0 " {
		t.Errorf("next attempts: %s", got)
	}
	second := makeNode(t)
	second.api.LoadRuns(path)
	if got := next(second); got != "4 8 0 " {
		t.Errorf("next attempts after a restart: %s", got)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	third := makeNode(t)
	third.api.LoadRuns(path)
	if got := next(third); got != "0 0 0 " {
		t.Errorf("next attempts after damage: %s", got)
	}
}

// A run whose processes died with their agent is ended by the next agent.
func TestLostRunsOfAnEarlierAgentEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "runs")
	first := makeNode(t)
	for i := range 1099 { // the file is bounded
		first.api.LaunchedForTest(fmt.Sprint("run-", i))
	}
	first.api.LoadRuns(path)
	first.api.LaunchedForTest("run-1099")
	data, err := os.ReadFile(path)
	if n := strings.Count(string(data), "run_id"); err != nil || n != 1024 {
		t.Fatalf("%d runs are remembered: %v", n, err)
	}
	watched(t, func(t *testing.T, n *node) {
		n.api.LoadRuns(path)
		time.Sleep(2 * time.Minute)
		if got := fmt.Sprint(n.endings("run-1099")); got != "[OUTCOME_FAILED at 0, attempt 2: process 9 went away and nobody started it again]" {
			t.Errorf("endings %s", got)
		}
	})
}

// TestNobodyTakesARunByFillingTheBook: another user's open run is his, whoever
// registers how many.
func TestNobodyTakesARunByFillingTheBook(t *testing.T) {
	n := makeNode(t)
	owner := func(run string, uid int) string {
		got, ok := n.api.ClaimForTest(run, uid)
		return fmt.Sprint(got, " ", ok)
	}
	owner("his", bob)
	for i := range 3000 {
		if got := owner(fmt.Sprint("hers-", i), ada); got != fmt.Sprint(ada, " true") {
			t.Fatalf("her run %d: %s", i, got)
		}
	}
	if got := owner("his", ada); got != fmt.Sprint(bob, " true") {
		t.Errorf("she took his run: %s", got)
	}
	// Another one comes, and the book is full of open runs: who has none is refused.
	for i := range 3000 {
		owner(fmt.Sprint("carls-", i), bob+1)
	}
	if got := owner("his", ada); got != fmt.Sprint(bob, " true") {
		t.Errorf("she took his run when the book was full: %s", got)
	}
	if got := owner("new", bob+2); got != "0 false" {
		t.Errorf("somebody new: %s", got)
	}
	if got := owner("his-2", bob); got != fmt.Sprint(bob, " true") {
		t.Errorf("he has one to give up: %s", got)
	}
}
