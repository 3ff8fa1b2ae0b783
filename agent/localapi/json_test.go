package localapi_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// post calls a method as a trainer without a library does.
func (n *node) post(method, body string) (code int, answer string) {
	n.t.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", n.socket)
		},
	}}
	resp, err := client.Post("http://agent/vigil.trainer.v1.TrainerService/"+method, "application/json", strings.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// TestPhasesAndEvaluationsAsJSON: what a trainer in any language declares is
// taken, and what says nothing is refused with what to say.
func TestPhasesAndEvaluationsAsJSON(t *testing.T) {
	n := serve(t)
	_, answer := n.post("Register", `{"runId": "run", "trainer": {"worldSize": 1}}`)
	var registered struct{ SessionID string }
	if err := json.Unmarshal([]byte(answer), &registered); err != nil || registered.SessionID == "" {
		t.Fatalf("register: %v: %s", err, answer)
	}
	say := func(event string) (int, string) {
		return n.post("Report", `{"sessionId": "`+registered.SessionID+`", "events": [`+event+`]}`)
	}
	for _, event := range []string{
		`{"phase": {"kind": "PHASE_KIND_SEQUENCE_LENGTH_CHANGE", "edge": "PHASE_EDGE_BEGIN", "step": 9}}`,
		`{"evaluation": {"step": 9, "loss": "NaN", "metrics": {"accuracy": 0.5}}}`,
		`{"step": {"step": 10, "updateRatio": 0.001, "deadRatios": {"a": 0.25}, "nonfiniteParameters": "0"}}`,
	} {
		if code, answer := say(event); code != http.StatusOK {
			t.Errorf("%s: %d %s", event, code, answer)
		}
	}
	for event, want := range map[string]string{
		`{"phase": {"kind": "PHASE_KIND_EVALUATION"}}`: "PHASE_EDGE_BEGIN",
		`{"phase": {"edge": "PHASE_EDGE_BEGIN"}}`:      "want a kind",
		`{"phase": {"kind": "LUNCH"}}`:                 "want a kind",
		`{"nodeFault": {}}`:                            "does not report on its node",
	} {
		if code, answer := say(event); code == http.StatusOK || !strings.Contains(answer, want) {
			t.Errorf("%s: %d %s, want %q", event, code, answer, want)
		}
	}
	events := n.list("run")
	if len(events) != 4 {
		t.Fatalf("%d events, want the registration and three more", len(events))
	}
	want := &commonv1.Phase{Kind: commonv1.PhaseKind_PHASE_KIND_SEQUENCE_LENGTH_CHANGE, Edge: commonv1.PhaseEdge_PHASE_EDGE_BEGIN, Step: 9}
	if !proto.Equal(events[1].GetPhase(), want) || events[2].GetEvaluation().GetMetrics()["accuracy"] != 0.5 || events[3].GetStep().GetDeadRatios()["a"] != 0.25 {
		t.Errorf("events %v", events[1:])
	}
}
