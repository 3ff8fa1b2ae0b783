package localapi_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/vigil-ml/vigil/agent/localapi"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

const (
	ada = 64001
	bob = 64002
)

// openNode makes a node whose socket every user of the machine may connect to. The
// test must be root to be others.
func openNode(t *testing.T, change ...func(*localapi.Config)) *node {
	t.Helper()
	dir := testkit.SharedDir(t)
	return serveWith(t, nil, append(change, func(c *localapi.Config) {
		c.Socket, c.SocketMode = filepath.Join(dir, "run", "s"), "0666"
		c.Runs = filepath.Join(dir, "runs")
	})...)
}

// connectAs connects as a user: the thread that connects is that user's, as a
// process of theirs would be.
func connectAs(uid int, socket string) (net.Conn, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
		return nil, fmt.Errorf("become user %d: %w", uid, errno)
	}
	defer func() { _, _, _ = unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 0, ^uintptr(0)) }()
	return net.Dial("unix", socket)
}

// as is a client of a user.
func (n *node) as(uid int) trainerv1.TrainerServiceClient {
	n.t.Helper()
	conn, err := grpc.NewClient("passthrough:///agent", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)), // the socket may have no mode yet
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return connectAs(uid, n.socket) }))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = conn.Close() })
	return trainerv1.NewTrainerServiceClient(conn)
}

// postAs calls a method as JSON, as a user, with headers.
func (n *node) postAs(uid int, method, body string, headers map[string]string) (int, string) {
	n.t.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return connectAs(uid, n.socket) },
	}}
	request, err := http.NewRequest(http.MethodPost, "http://agent/vigil.trainer.v1.TrainerService/"+method, bytes.NewReader([]byte(body)))
	if err != nil {
		n.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	response, err := client.Do(request)
	if err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// TestAnotherUsersTrainerIsRefused: a run is of the user whose process registered
// it first, and a session of the user whose process it is, whatever the caller
// knows or says; the machine's administrator may speak for all.
func TestAnotherUsersTrainerIsRefused(t *testing.T) {
	n := openNode(t)
	mine, err := n.as(ada).Register(t.Context(), registration("hers", 0))
	if err != nil {
		t.Fatal(err)
	}
	stranger := n.as(bob)
	stolen := mine.SessionId // known, somehow
	step := &trainerv1.ReportRequest{SessionId: stolen, Events: []*commonv1.Event{{Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: 1}}}}}
	for name, call := range map[string]func() error{
		"register as another rank": func() error { _, err := stranger.Register(t.Context(), registration("hers", 1)); return err },
		"register in its place":    func() error { _, err := stranger.Register(t.Context(), registration("hers", 0)); return err },
		"supervise": func() error {
			_, err := stranger.Register(t.Context(), &trainerv1.RegisterRequest{RunId: "hers", Kind: trainerv1.SessionKind_SESSION_KIND_SUPERVISOR})
			return err
		},
		"report": func() error { _, err := stranger.Report(t.Context(), step); return err },
		"watch": func() error {
			stream, err := stranger.WatchDirectives(t.Context(), &trainerv1.WatchDirectivesRequest{SessionId: stolen})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		},
		"begin": func() error {
			_, err := stranger.BeginCheckpoint(t.Context(), &trainerv1.BeginCheckpointRequest{SessionId: stolen})
			return err
		},
		"commit": func() error {
			_, err := stranger.CommitCheckpoint(t.Context(), &trainerv1.CommitCheckpointRequest{SessionId: stolen, CheckpointId: "c"})
			return err
		},
		"resume": func() error {
			_, err := stranger.ResolveResume(t.Context(), &trainerv1.ResolveResumeRequest{SessionId: stolen})
			return err
		},
		"request": func() error {
			_, err := stranger.RequestCheckpoint(t.Context(), &trainerv1.RequestCheckpointRequest{SessionId: stolen})
			return err
		},
		"standing": func() error {
			_, err := stranger.GetStanding(t.Context(), &trainerv1.GetStandingRequest{SessionId: stolen})
			return err
		},
		"weights": func() error {
			_, err := stranger.Weights(t.Context(), &trainerv1.WeightsRequest{SessionId: stolen})
			return err
		},
		"with metadata that says otherwise": func() error {
			_, err := stranger.Report(metadata.AppendToOutgoingContext(t.Context(), "vigil-peer-uid", fmt.Sprint(ada)), step)
			return err
		},
	} {
		if err := call(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", name, err)
		}
	}
	body := fmt.Sprintf(`{"sessionId":%q,"events":[{"step":{"step":1}}]}`, stolen)
	for name, headers := range map[string]map[string]string{
		"as JSON": nil, "with a header that says otherwise": {"Grpc-Metadata-Vigil-Peer-Uid": fmt.Sprint(ada), "Vigil-Peer-Uid": "0"},
	} {
		if code, _ := n.postAs(bob, "Report", body, headers); code != http.StatusForbidden {
			t.Errorf("%s: status %d", name, code)
		}
	}
	if got := len(n.list("hers")); got != 1 {
		t.Errorf("%d events of the run, want her registration alone", got)
	}
	if got := n.count(metric.AgentPeersRefused); got != 14 {
		t.Errorf("%v calls were counted as refused, want 14", got)
	}

	if code, _ := n.postAs(ada, "Report", body, nil); code != http.StatusOK {
		t.Errorf("her own report as JSON: status %d", code)
	}
	if _, err := n.as(0).Report(t.Context(), step); err != nil {
		t.Errorf("the administrator: %v", err)
	}
	if _, err := stranger.Register(t.Context(), registration("his", 0)); err != nil {
		t.Errorf("his own run: %v", err)
	}
}

// TestRunsStayTheirUsers: also after a restart of the agent.
func TestRunsStayTheirUsers(t *testing.T) {
	n := openNode(t)
	if _, err := n.as(ada).Register(t.Context(), registration("hers", 0)); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(n.socket)), "runs"))
	if err != nil || !strings.Contains(string(text), fmt.Sprintf(`"owner": %d`, ada)) {
		t.Fatalf("the runs file: %v\n%s", err, text)
	}
	again := openNode(t)
	restarted := serveWith(t, nil, func(c *localapi.Config) {
		c.Socket, c.SocketMode, c.Runs = filepath.Join(filepath.Dir(again.socket), "s2"), "0666", filepath.Join(filepath.Dir(filepath.Dir(n.socket)), "runs")
	})
	if _, err := restarted.as(bob).Register(t.Context(), registration("hers", 0)); status.Code(err) != codes.PermissionDenied {
		t.Errorf("another user after a restart: %v", err)
	}
	if _, err := restarted.as(ada).Register(t.Context(), registration("hers", 0)); err != nil {
		t.Errorf("she herself: %v", err)
	}
}

// TestSocketIsForItsUser: by default no other user gets as far as a call.
func TestSocketIsForItsUser(t *testing.T) {
	testkit.RequireRoot(t)
	n := serve(t)
	if conn, err := connectAs(ada, n.socket); err == nil {
		_ = conn.Close()
		t.Error("another user connects")
	}
}
