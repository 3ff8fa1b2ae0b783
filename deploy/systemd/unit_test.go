// Package systemd holds the units of the programs; there is no code but the
// tests that hold the units to what the programs do.
package systemd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// settings gives a unit's settings by key; of one that is set twice the last.
func settings(t *testing.T, path string) map[string]string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			all[key] = value
		}
	}
	return all
}

func TestTheAgentsUnit(t *testing.T) {
	got := settings(t, "vigil-agent.service")
	for key, want := range map[string]string{
		"Type":            "notify", // internal/systemd says READY=1
		"ExecReload":      "/bin/kill -HUP $MAINPID",
		"Restart":         "always",
		"NoNewPrivileges": "yes",
		"ProtectSystem":   "strict",
		"StateDirectory":  "vigil",
	} {
		if got[key] != want {
			t.Errorf("%s=%s, want %s", key, got[key], want)
		}
	}
	if got["WatchdogSec"] == "" || !strings.Contains(got["CapabilityBoundingSet"], "CAP_SYSLOG") {
		t.Error("without a watchdog a hung agent stays, and without CAP_SYSLOG it cannot read the kernel log")
	}
	for _, needed := range []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE"} {
		if got["User"] != "root" || !strings.Contains(got["CapabilityBoundingSet"], needed) {
			t.Errorf("without %s the trainers of other users have no place to write to", needed)
		}
	}
	if strings.Contains(got["ProtectKernelLogs"], "yes") {
		t.Error("ProtectKernelLogs hides /dev/kmsg")
	}
}

// systemd itself finds no mistake in the units.
func TestUnitsAreWhatSystemdKnows(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not here")
	}
	units, err := filepath.Glob("*.service")
	if err != nil || len(units) == 0 {
		t.Fatalf("units %v, %v", units, err)
	}
	for _, unit := range units {
		data, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		// The program is not installed where the tests run.
		copied := filepath.Join(t.TempDir(), unit)
		text := strings.ReplaceAll(string(data), "/usr/bin/vigil-", "/bin/true /usr/bin/vigil-")
		if err := os.WriteFile(copied, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(analyze, "verify", "--man=no", copied).CombinedOutput()
		if err != nil || strings.Contains(string(out), filepath.Base(unit)) {
			t.Errorf("%s: %v\n%s", unit, err, out)
		}
	}
}
