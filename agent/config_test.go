package agent

import (
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/fault"
)

func decode(text string) (Config, error) {
	c := Defaults()
	return c, conf.Decode("agent.yaml", []byte(text), &c)
}

func TestDefaultsAreGood(t *testing.T) {
	if _, err := decode(""); err != nil {
		t.Error(err)
	}
}

func TestEveryMistakeIsNamed(t *testing.T) {
	_, err := decode(`nod: n1
listen: 0.0.0.0:9464
`)
	if err == nil || !strings.Contains(err.Error(), `agent.yaml:1: nod: unknown key; did you mean "node"?`) {
		t.Errorf("unknown key: %v", err)
	}
	_, err = decode(`node: foo bar
state_dir: ""
listen: 0.0.0.0:9464
uplink: {address: nowhere}
collectors: {hots: {}}
vault: {max_staged: 0}
`)
	if err == nil {
		t.Fatal("nothing is wrong")
	}
	for _, want := range []string{
		"agent.yaml:1: node:", "agent.yaml:2: state_dir:", "agent.yaml:3: listen:", "agent.yaml:4: uplink.address:",
		`there is no collector "hots"; there are host, tasks, cgroup, process, process_memory, kernel, fabric, nvml`, "agent.yaml:6: vault.max_staged:",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not named in:\n%v", want, err)
		}
	}
	if !fault.Is(err, fault.Invalid) {
		t.Errorf("kind %v", fault.KindOf(err))
	}
}

// TestNodeStaysWhatItWas: frames in the spool carry the name.
func TestNodeStaysWhatItWas(t *testing.T) {
	first := Defaults()
	first.StateDir, first.Node = t.TempDir(), "alpha"
	if err := first.settle(); err != nil {
		t.Fatal(err)
	}
	unnamed := Defaults()
	unnamed.StateDir = first.StateDir
	if err := unnamed.settle(); err != nil || unnamed.Node != "alpha" {
		t.Errorf("without a name: %q, %v", unnamed.Node, err)
	}
	other := Defaults()
	other.StateDir, other.Node = first.StateDir, "beta"
	if err := other.settle(); !fault.Is(err, fault.Precondition) || fault.HintOf(err) == "" {
		t.Errorf("under another name: %v", err)
	}
}

func TestSources(t *testing.T) {
	c, err := decode("collectors: {nvml: {off: true}, host: {interval: 3s, timeout: 1s}, tasks: {interval: 5s}}\n")
	if err != nil {
		t.Fatal(err)
	}
	sources, err := c.sources(collect.Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]time.Duration{}
	for _, s := range sources {
		got[s.Name] = s.Interval
	}
	// What is set holds, else the kind's own pace, else the agent's.
	for name, want := range map[string]time.Duration{
		"host": 3 * time.Second, "tasks": 5 * time.Second, "kernel": 10 * time.Second,
		"process_memory": time.Minute, "process": collectInterval, "nvml": 0,
	} {
		if got[name] != want {
			t.Errorf("%s is called every %v, want %v", name, got[name], want)
		}
	}
	if sources[0].Name != "host" || sources[0].Timeout != time.Second {
		t.Errorf("the first source is %s with timeout %v", sources[0].Name, sources[0].Timeout)
	}
	c, err = decode("collectors: {host: {settings: {prok: /x}}}\n")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.sources(collect.Deps{Log: slog.New(slog.DiscardHandler)}); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "collectors.host.settings.prok") {
		t.Errorf("a wrong setting: %v", err)
	}
}

func TestRelativePathsLieBelowTheStateDirectory(t *testing.T) {
	c := Defaults()
	c.StateDir = t.TempDir()
	c.Vault.Dir = "/shared/vault"
	if err := c.settle(); err != nil {
		t.Fatal(err)
	}
	if c.Node == "" || c.Node != hostName() {
		t.Errorf("node is %q", c.Node)
	}
	if c.Spool.Events.Dir != filepath.Join(c.StateDir, "spool/events") || c.Vault.Dir != "/shared/vault" {
		t.Errorf("spool in %s, vault in %s", c.Spool.Events.Dir, c.Vault.Dir)
	}
}
