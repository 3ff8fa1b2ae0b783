package serve_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/serve"
	trainergw "github.com/vigil-ml/vigil/proto/gateway/vigil/trainer/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

type service struct {
	trainerv1.UnimplementedTrainerServiceServer
	watchEnded chan struct{}
}

func (s *service) Register(_ context.Context, in *trainerv1.RegisterRequest) (*trainerv1.RegisterResponse, error) {
	if in.RunId == "" {
		return nil, fault.GRPC(fault.New(fault.Invalid, "run_id is empty"))
	}
	return &trainerv1.RegisterResponse{SessionId: "s-" + in.RunId}, nil
}

func (s *service) WatchDirectives(_ *trainerv1.WatchDirectivesRequest, out grpc.ServerStreamingServer[trainerv1.WatchDirectivesResponse]) error {
	if err := out.Send(&trainerv1.WatchDirectivesResponse{}); err != nil {
		return err
	}
	<-out.Context().Done()
	close(s.watchEnded)
	return nil
}

// start serves on a unix socket and gives the service and a client for HTTP.
func start(t *testing.T, strict bool) (*service, string, *http.Client) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	svc := &service{watchEnded: make(chan struct{})}
	g := grpc.NewServer()
	trainerv1.RegisterTrainerServiceServer(g, svc)
	group := life.NewGroup(context.Background())
	group.Go("serve", func(ctx context.Context) error {
		return serve.Both(ctx, listener, serve.Options{
			GRPC: g, JSON: []serve.Register{trainergw.RegisterTrainerServiceHandler}, RefuseUnknownFields: strict,
			HTTP: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "other") }),
		})
	})
	client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", socket)
	}}}
	t.Cleanup(func() {
		client.CloseIdleConnections()
		group.Stop()
		if err := group.Wait(); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return svc, socket, client
}

func post(t *testing.T, client *http.Client, method, contentType, body string) (int, string) {
	t.Helper()
	resp, err := client.Post("http://agent/vigil.trainer.v1.TrainerService/"+method, contentType, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(bytes.ReplaceAll(text, []byte(" "), nil))
}

func TestBothSpeakOnOneSocket(t *testing.T) {
	_, socket, client := start(t, false)
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	out, err := trainerv1.NewTrainerServiceClient(conn).Register(t.Context(), &trainerv1.RegisterRequest{RunId: "r"})
	if err != nil || out.SessionId != "s-r" {
		t.Errorf("gRPC: %v, %v", out, err)
	}
	if code, body := post(t, client, "Register", "application/json", `{"runId":"r"}`); code != 200 || !strings.Contains(body, `"sessionId":"s-r"`) {
		t.Errorf("JSON: %d %s", code, body)
	}
	resp, err := client.Get("http://agent/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if text, _ := io.ReadAll(resp.Body); string(text) != "other" {
		t.Errorf("other path: %q", text)
	}
}

func TestJSONRefuses(t *testing.T) {
	_, _, client := start(t, true)
	for _, tc := range []struct {
		name, method, contentType, body string
		code                            int
		says                            string
	}{
		{"error of the service", "Register", "application/json", `{}`, 400, "run_idisempty"},
		{"unknown field", "Register", "application/json", `{"runIdd":"r"}`, 400, "runIdd"},
		{"malformed", "Register", "application/json", `{`, 400, ""},
		{"form", "Register", "application/x-www-form-urlencoded", `{"runId":"r"}`, 415, "application/json"},
		{"unknown method", "Nothing", "application/json", `{}`, 404, ""},
		{"unimplemented", "Report", "application/json", `{}`, 501, ""},
		{"too large", "Register", "application/json", `{"runId":"` + strings.Repeat("x", 9<<20) + `"}`, 400, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, body := post(t, client, tc.method, tc.contentType, tc.body)
			if code != tc.code || !strings.Contains(body, tc.says) {
				t.Errorf("got %d %s, want %d with %q", code, body, tc.code, tc.says)
			}
		})
	}
}

func TestJSONStreamEndsWithItsReader(t *testing.T) {
	svc, _, client := start(t, false)
	resp, err := client.Post("http://agent/vigil.trainer.v1.TrainerService/WatchDirectives", "application/json", strings.NewReader(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	if err != nil || !strings.Contains(line, "result") {
		t.Errorf("first line %q, %v", line, err)
	}
	_ = resp.Body.Close()
	select {
	case <-svc.watchEnded:
	case <-time.After(10 * time.Second):
		t.Error("the service did not see that the reader went away")
	}
}
