package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	reported "github.com/vigil-ml/vigil/agent/scan"
)

// config is a file in which only the host is looked at, with some thresholds.
func config(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, []byte("node: n7\ncollectors: {nvml: {off: true}}\n"+text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestScanOfThisMachine(t *testing.T) {
	// Every file system is fuller than this, whatever machine it is.
	full := config(t, "scan: {disk_used_ratio: 1e-9, disk_full_ratio: 1e-9}")
	warns := config(t, "scan: {memory_used_ratio: 1e-9, disk_used_ratio: 1, disk_full_ratio: 1, cpu_busy_ratio: 1}")
	for name, tc := range map[string]struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		"something fails":   {[]string{"--config", full}, 2, "node n7: fail", ""},
		"something warns":   {[]string{"--config", warns}, 0, "memory", ""},
		"strict":            {[]string{"--config", warns, "--strict"}, 1, "node n7: warn", ""},
		"help":              {[]string{"--help"}, 0, "HealthCheckProgram", ""},
		"unknown flag":      {[]string{"--stric"}, 64, "", "hint: vigil-agent scan --help"},
		"argument":          {[]string{"now"}, 64, "", `argument "now"`},
		"format":            {[]string{"--format", "xml"}, 64, "", "want table or json"},
		"hurry":             {[]string{"--timeout", "1ms"}, 64, "", "at least a second"},
		"no file":           {[]string{"--config", full + "x"}, 66, "", "no such file"},
		"bad threshold":     {[]string{"--config", config(t, "scan: {disk_used_ratio: 95}")}, 64, "", "disk_used_ratio: is 95"},
		"collector mistake": {[]string{"--config", config(t, "scan: {nvm: 1}")}, 64, "", "unknown key"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := scan(tc.args, &stdout, &stderr)
			if code != tc.code || !strings.Contains(stdout.String(), tc.stdout) || !strings.Contains(stderr.String(), tc.stderr) {
				t.Errorf("code %d, stdout:\n%s\nstderr:\n%s", code, &stdout, &stderr)
			}
		})
	}
}

func TestScanAsJSON(t *testing.T) {
	var stdout, stderr bytes.Buffer
	code := scan([]string{"--config", config(t, ""), "--format", "json"}, &stdout, &stderr)
	var report reported.Report
	if err := json.Unmarshal(stdout.Bytes(), &report); err != nil {
		t.Fatalf("%v: %s%s", err, &stdout, &stderr)
	}
	if report.Node != "n7" || len(report.Checks) == 0 || code != report.ExitCode(false) {
		t.Errorf("code %d, report %+v", code, report)
	}
	for _, c := range report.Checks {
		if c.Name == "collector host" && c.Status != reported.Ok {
			t.Errorf("host: %+v", c)
		}
	}
}
