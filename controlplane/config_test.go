package controlplane

import (
	"context"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/vigil-ml/vigil/controlplane/detect/rules"
	"github.com/vigil-ml/vigil/internal/conf"
)

func decode(text string) (Config, error) {
	c := Defaults()
	return c, conf.Decode("controlplane.yaml", []byte(text), &c)
}

func TestDefaultsAreGood(t *testing.T) {
	if _, err := decode(""); err != nil {
		t.Error(err)
	}
}

func TestEveryMistakeIsNamed(t *testing.T) {
	_, err := decode(`api: {listen: everywhere}
agents: {listen: here}
bus: {sync: sometimes}
metrics: {retention: 1m}
log: {level: loud}
`)
	if err == nil {
		t.Fatal("nothing is wrong")
	}
	for _, want := range []string{
		"controlplane.yaml:1: api.listen:", "controlplane.yaml:2: agents.listen:",
		"controlplane.yaml:3: bus.sync:", "controlplane.yaml:4: metrics.retention:", "controlplane.yaml:5: log.level:",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not named in:\n%v", want, err)
		}
	}
}

// TestReplicasShareTheirKeys: control planes that share records must not each
// make an authority and a key of the audit log.
// TestGarbage: a small heap is not collected again and again, a large one has
// little garbage.
func TestGarbage(t *testing.T) {
	for live, want := range map[uint64]int{0: 400, 4 << 20: 400, 16 << 20: 100, 32 << 20: 50, 64 << 20: 25, 1 << 30: 25} {
		if got := garbageOf(live); got != want {
			t.Errorf("a heap of %d MiB may grow by %d %%, want %d", live>>20, got, want)
		}
	}
}

func TestReplicasShareTheirKeys(t *testing.T) {
	const shared = "store: {url: 'postgres://db/vigil?sslmode=verify-full'}\nbus: {url: 'nats://n0:4222', tls: {ca_file: /c, cert_file: /c, key_file: /k}}\n"
	_, err := decode(shared)
	for _, want := range []string{"authority.cert_file", "authority.key_file", "audit.key_file"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not named in: %v", want, err)
		}
	}
	if _, err := decode(shared + "authority: {cert_file: /k/ca.pem, key_file: /k/ca.key}\naudit: {key_file: /k/audit.key}\n"); err != nil {
		t.Error(err)
	}
}

// TestReplicasSpeakTLS: what control planes share on other machines is not spoken
// with plainly, nor without knowing who is there.
func TestReplicasSpeakTLS(t *testing.T) {
	const files = ", tls: {ca_file: /c, cert_file: /c, key_file: /k}"
	for _, tc := range []struct{ store, bus, want string }{
		{"postgres://127.0.0.1/v?sslmode=disable", "'nats://127.0.0.1:4222'", ""},
		{"postgres:///v?host=/run/postgresql&sslmode=disable", "'nats://localhost'", ""},
		{"postgres://db/v?sslmode=verify-full", "'tls://n0:4222,n1'" + files, ""},
		{"postgres://db/v?sslmode=verify-ca&sslrootcert=/none", "'nats://127.0.0.1'", "store.url"}, // a file that is not there
		{"postgres://db/v?sslmode=disable", "'nats://127.0.0.1'", "store.url"},
		{"postgres://db/v?sslmode=prefer", "'nats://127.0.0.1'", "store.url"},
		{"postgres://db/v?sslmode=require", "'nats://127.0.0.1'", "store.url"},
		{"postgres://db/v", "'nats://127.0.0.1'", "store.url"},
		{"postgres://127.0.0.1,db/v?sslmode=disable", "'nats://127.0.0.1'", "store.url"},
		{"postgres://127.0.0.1/v", "'nats://127.0.0.1,nats://n1'", "bus.tls"},
		{"postgres://127.0.0.1/v", "'n1:4222'", "bus.tls"},
		{"postgres://127.0.0.1/v", "'tls://n1:4222'", "bus.tls"},
		{"postgres://127.0.0.1/v", "'nats://n1:4222', tls: {ca_file: /c}", "bus.tls"},
	} {
		_, err := decode("store: {url: '" + tc.store + "'}\nbus: {url: " + tc.bus + "}\n" +
			"authority: {cert_file: /k/ca.pem, key_file: /k/ca.key}\naudit: {key_file: /k/audit.key}\n")
		if (err == nil) != (tc.want == "") || (err != nil && !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s, %s: %v; want %q", tc.store, tc.bus, err, tc.want)
		}
	}
}

// TestEveryRuleHasItsPage: what a finding means is written down.
func TestEveryRuleHasItsPage(t *testing.T) {
	for _, code := range rules.Codes() {
		if _, err := os.Stat("../docs/runbook/" + code + ".md"); err != nil {
			t.Errorf("rule %s: %v", code, err)
		}
	}
}

// TestRunEndsWhenAPartCannotStart: nothing keeps running, and the error says
// which part.
func TestRunEndsWhenAPartCannotStart(t *testing.T) {
	c, err := decode("alerting: {receivers: [{name: ops, slakc: {}}]}\n")
	if err != nil {
		t.Fatal(err)
	}
	c.StateDir = t.TempDir()
	c.API.Listen, c.Agents.Listen = "127.0.0.1:0", "127.0.0.1:0"
	err = Run(context.Background(), c, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "slakc") {
		t.Errorf("Run = %v", err)
	}
}
