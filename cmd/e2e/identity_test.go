package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vigil-ml/vigil/agent/enroll"
	"github.com/vigil-ml/vigil/internal/pki"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// A node joins with a token, over the programs, and renews its certificate again
// and again while its trainer reports: no event is lost and its stream goes on.
func TestANodeJoinsAndRenewsUnderLoad(t *testing.T) {
	h := open(t, "", "")
	token, stderr, code := h.agentctl("join-token", "create", "--node", "n2")
	if code != 0 || !strings.Contains(stderr, "vigil-agent join --token TOKEN "+h.Agents) {
		t.Fatalf("join-token create: exit code %d\n%s", code, stderr)
	}
	config := h.Path("n2.yaml")
	if err := os.WriteFile(config, []byte("node: n2\nstate_dir: "+h.Path("n2")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	join := func() ([]byte, error) {
		return exec.CommandContext(h.ctx, filepath.Join(h.Bin, "vigil-agent"), "join", "--config", config, "--token", strings.TrimSpace(token), h.Agents).CombinedOutput()
	}
	if out, err := join(); err != nil || !strings.Contains(string(out), "node n2 has joined") {
		t.Fatalf("vigil-agent join: %v\n%s", err, out)
	}
	if out, err := join(); err == nil || !strings.Contains(string(out), "the token was used already") {
		t.Errorf("joining twice with one token: %v\n%s", err, out)
	}

	n := startGPUNode(t, "n3", h.Agents)
	testkit.Eventually(t, "the node to join by itself", n.up.Connected)
	const events, renewals = 400, 20
	n.say("loaded", &commonv1.Event{Body: &commonv1.Event_TrainerRegistered{TrainerRegistered: &commonv1.TrainerRegistered{WorldSize: 1, Pid: 1}}})
	for i := range events {
		n.say("loaded", &commonv1.Event{Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: int64(i + 1)}}})
		if i%(events/renewals) == 0 {
			if err := n.identity.Renew(h.ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	seen := map[int64]int{}
	testkit.Eventually(t, "every event to arrive", func() bool {
		clear(seen)
		for _, e := range h.events("loaded") {
			if step := e.GetStep(); step != nil {
				seen[step.Step]++
			}
		}
		return len(seen) >= events
	})
	for step, times := range seen {
		if times != 1 {
			t.Errorf("step %d came %d times", step, times)
		}
	}
	if got := n.sessions(); got != 1 {
		t.Errorf("the node had %v sessions, want 1: its stream was dropped", got)
	}
	list, _, code := h.agentctl("identities", "list")
	if code != 0 || strings.Count(list, "spiffe://vigil/node/n3") != renewals+1 {
		t.Errorf("identities list: exit code %d, %d certificates of n3, want %d", code, strings.Count(list, "spiffe://vigil/node/n3"), renewals+1)
	}

	// Revoked, it is cut off, and what it has left to say waits.
	if out, _, code := h.agentctl("identities", "revoke", "n3"); code != 0 || !strings.Contains(out, "revoked") {
		t.Errorf("identities revoke: exit code %d\n%s", code, out)
	}
	testkit.Eventually(t, "the stream to be cut", func() bool { return !n.up.Connected() })
	if err := n.identity.Renew(h.ctx); err == nil {
		t.Error("a node that was revoked renewed its certificate")
	}
	identity, err := enroll.Open(enroll.Config{Path: h.Path("n4.pem"), Node: "n4", Address: h.Agents}, testkit.Logger(t))
	if err != nil {
		t.Fatal(err)
	}
	foreign := pki.JoinToken{ID: "a", Secret: "b", Pin: strings.Repeat("0", 64)}
	if err := identity.Join(h.ctx, foreign); err == nil || !strings.Contains(err.Error(), "not the one that made the join token") {
		t.Errorf("joining a control plane that is another: %v", err)
	}
}
