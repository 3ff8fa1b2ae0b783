package localapi_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestRegisteringAgainReplaces(t *testing.T) {
	n := serve(t)
	first := n.register(registration("run", 0))
	stream := n.watch(t.Context(), first)
	gone := n.sessions.Gone(n.sessions.Trainers("run")[0])
	second := n.register(registration("run", 0))
	if _, err := stream.Recv(); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("the old watch ended with %v", err)
	}
	if !closed(gone) {
		t.Error("the old session is not gone")
	}
	if _, err := n.client.Report(t.Context(), &trainerv1.ReportRequest{SessionId: first}); status.Code(err) != codes.NotFound ||
		!strings.Contains(err.Error(), "register again") {
		t.Errorf("report with the old session: %v", err)
	}
	n.watch(t.Context(), second)
	// Another rank, and a supervisor of the same rank, stand beside it.
	n.register(registration("run", 1))
	n.register(&trainerv1.RegisterRequest{RunId: "run", Kind: trainerv1.SessionKind_SESSION_KIND_SUPERVISOR})
	if got := len(n.sessions.Trainers("run")); got != 2 {
		t.Errorf("%d trainers; want 2", got)
	}
}

// A process that lost its connection has what it was to be told when it is
// back; another process in its place has not.
func TestDirectivesFollowTheProcess(t *testing.T) {
	for name, same := range map[string]bool{"same process": true, "new attempt": false} {
		t.Run(name, func(t *testing.T) {
			n := serve(t)
			n.register(registration("run", 0))
			if _, err := n.sessions.Direct("run", directive("d")); err != nil {
				t.Fatal(err)
			}
			again := registration("run", 0)
			if !same {
				again.Attempt++
			}
			stream := n.watch(t.Context(), n.register(again))
			if _, err := n.sessions.Direct("run", directive("later")); err != nil {
				t.Fatal(err)
			}
			next, err := stream.Recv()
			if err != nil || (next.Directive.DirectiveId == "d") != same {
				t.Errorf("got %v, %v", next, err)
			}
		})
	}
}

func TestNewerWatchTakesOver(t *testing.T) {
	n := serve(t)
	session := n.register(registration("run", 0))
	old := n.watch(t.Context(), session)
	gone := n.sessions.Gone(n.sessions.Trainers("run")[0])
	n.watch(t.Context(), session)
	if _, err := old.Recv(); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("the old watch ended with %v", err)
	}
	if closed(gone) {
		t.Error("the process is taken to be away, and watches")
	}
}

// When the watch ends the process counts as away; what it has left to report
// is taken, and a new watch brings it back.
func TestEndOfTheWatch(t *testing.T) {
	n := serve(t)
	session := n.register(registration("run", 0))
	ctx, cancel := context.WithCancel(t.Context())
	n.watch(ctx, session)
	gone := n.sessions.Gone(n.sessions.Trainers("run")[0])
	cancel()
	<-gone
	if _, err := n.sessions.Direct("run", directive("d")); !fault.Is(err, fault.NotFound) {
		t.Errorf("direct: %v", err)
	}
	_, err := n.client.Report(t.Context(), &trainerv1.ReportRequest{SessionId: session, Events: []*commonv1.Event{
		{Body: &commonv1.Event_RunEnded{RunEnded: &commonv1.RunEnded{}}}}})
	if err != nil || n.list("run")[1].GetRunEnded() == nil {
		t.Errorf("last report: %v", err)
	}
	n.watch(t.Context(), session)
	if _, err := n.sessions.Direct("run", directive("d")); err != nil {
		t.Errorf("direct after the process is back: %v", err)
	}
}

func TestDirectiveQueueIsBounded(t *testing.T) {
	n := serve(t)
	n.register(registration("run", 0)) // and does not watch
	for i := range 17 {
		_, err := n.sessions.Direct("run", directive(fmt.Sprint(i)))
		if want := i == 16; fault.Is(err, fault.Exhausted) != want {
			t.Errorf("directive %d: %v", i, err)
		}
	}
}

func TestSessionTableIsBounded(t *testing.T) {
	n := serve(t)
	n.api.KeepNoRuns() // thousands of launches would write thousands of files
	watching := n.register(registration("watching", 0))
	n.watch(t.Context(), watching)
	silent := n.register(registration("silent", 0))
	for i := range 4095 {
		if _, err := n.api.Register(t.Context(), registration(fmt.Sprint("run-", i), 0)); err != nil {
			t.Fatalf("registration %d: %v", i, err)
		}
	}
	if got := testutil.CollectAndCount(n.metrics, "vigil_agent_trainer_sessions"); got != 1 {
		t.Fatalf("%d series", got)
	}
	if _, err := n.client.Report(t.Context(), &trainerv1.ReportRequest{SessionId: silent}); status.Code(err) != codes.NotFound {
		t.Errorf("the session that was silent longest: %v", err)
	}
	if _, err := n.client.Report(t.Context(), &trainerv1.ReportRequest{SessionId: watching}); err != nil {
		t.Errorf("the session with a watch: %v", err)
	}
}

func TestManySessionsAtOnce(t *testing.T) {
	const sessions, reports = 200, 5
	n := serve(t)
	var wg sync.WaitGroup
	for i := range sessions {
		wg.Go(func() {
			run := fmt.Sprint("run-", i/4)
			out, err := n.client.Register(t.Context(), registration(run, uint32(i%4)))
			if err != nil {
				t.Error(err)
				return
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			stream, err := n.client.WatchDirectives(ctx, &trainerv1.WatchDirectivesRequest{SessionId: out.SessionId})
			if err != nil {
				t.Error(err)
				return
			}
			for step := range int64(reports) {
				_, err := n.client.Report(ctx, &trainerv1.ReportRequest{SessionId: out.SessionId, Events: []*commonv1.Event{
					{Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: step, Loss: proto.Float64(1)}}}}})
				if err != nil {
					t.Error(err)
				}
			}
			if _, err := n.sessions.Direct(run, directive("d")); err != nil {
				t.Error(err)
			}
			for {
				next, err := stream.Recv()
				if err != nil {
					t.Errorf("rank %d of %s: %v", i%4, run, err)
					return
				}
				if next.Directive != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	total := 0
	for i := range sessions / 4 {
		for _, e := range n.list(fmt.Sprint("run-", i)) {
			if e.GetStep() != nil {
				total++
			}
		}
	}
	if total != sessions*reports {
		t.Errorf("%d events; want %d", total, sessions*reports)
	}
}

// A trainer in another language and without gRPC does everything, and when it
// is killed that is seen at once.
func TestPythonTrainer(t *testing.T) {
	python := testkit.Require(t, "python3")
	n := serve(t)
	cmd := exec.Command(python, "testdata/client.py", n.socket, "run")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err := errors.Join(err, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	lines := bufio.NewReader(stdout)
	say := func(want string) {
		t.Helper()
		if line, err := lines.ReadString('\n'); err != nil || line != want+"\n" {
			rest, _ := io.ReadAll(lines)
			t.Fatalf("client said %q, %v; want %q\n%s%s", line, err, want, rest, stderr.String())
		}
	}
	say("watching")
	sessions, err := n.sessions.Direct("run", directive("d"))
	if err != nil || len(sessions) != 1 || sessions[0].PID != int64(cmd.Process.Pid) {
		t.Fatalf("direct: %v, %v", sessions, err)
	}
	gone := n.sessions.Gone(sessions[0])
	say("saved ck 1")
	events := n.list("run")
	if loss := events[1].GetStep().GetLoss(); loss == loss {
		t.Errorf("loss %v; want NaN", loss)
	}
	if closed(gone) {
		t.Error("the trainer is taken to be away, and lives")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-gone
	if got := n.sessions.Trainers("run"); len(got) != 0 {
		t.Errorf("trainers after the kill: %v", got)
	}
}
