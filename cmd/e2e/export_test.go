package e2e

import (
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// found is what must be the same of a finding.
type found struct {
	ID       string             `json:"finding_id"`
	Kind     string             `json:"kind"`
	Step     int64              `json:"step"`
	Onset    int64              `json:"onset_step"`
	Summary  string             `json:"summary"`
	Evidence map[string]float64 `json:"evidence"`
	Shadow   bool               `json:"shadow"`
}

// replayed is what agentctl detect replay says of a run.
type replayed struct {
	Trace      string
	Detections []found
	Recorded   []struct {
		Finding string `json:"finding_id"`
		Verdict string
		Again   bool
	}
}

func (h *house) replay(args ...string) (out replayed) {
	h.t.Helper()
	text, stderr, code := h.agentctl(append([]string{"detect", "replay", "--format", "jsonl"}, args...)...)
	if code != 0 {
		h.t.Fatalf("replay ended with %d: %s", code, stderr)
	}
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		h.t.Fatalf("%v: %s", err, text)
	}
	return out
}

// live gives what the control plane found of a run, the oldest first.
func (h *house) live(run string) (all []found) {
	h.t.Helper()
	out, err := controlv1.NewFindingServiceClient(h.Conn()).ListFindings(h.ctx, &controlv1.ListFindingsRequest{RunId: run})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, record := range out.Findings {
		f := record.Finding
		kind := strings.Replace(f.Kind, "nonfinite", "nan", 1)
		all = append(all, found{f.FindingId, kind, f.Step, f.OnsetStep, f.Summary, f.Evidence, f.Shadow})
	}
	return all
}

// TestExportedRunReplaysAsItWas trains through a NaN, kills the control plane
// on the way, exports the run and replays it: the findings are the same. What a
// person said of one goes with it, and with changed rules the replay tells what
// became of it.
func TestExportedRunReplaysAsItWas(t *testing.T) {
	h := open(t, "detection: {runs: [{match: \"tried-*\", rules: {modes: {nonfinite: shadow}}}]}\n", "")
	for _, run := range []string{"kept", "tried-1"} {
		p := h.train(run, "--steps", "900", "--inject", "nan-grad@500", "--pace", "1ms")
		h.await(run, func(r *controlv1.GetRunResponse) bool { return r.Run.Step > 250 })
		if run == "kept" {
			h.controlPlane.Kill()
			h.startControlPlane()
		}
		if err := p.Wait(h.ctx); err != nil {
			t.Fatal(err)
		}
		r := h.await(run, succeeded)
		if got := len(r.Incidents); got != map[string]int{"kept": 1, "tried-1": 0}[run] {
			t.Errorf("run %s has %d incidents", run, got)
		}
		live := h.live(run)
		if len(live) == 0 || live[len(live)-1].Shadow != (run != "kept") {
			t.Fatalf("found of %s: %+v", run, live)
		}
		file := filepath.Join(t.TempDir(), run+".jsonl")
		if _, stderr, code := h.agentctl("runs", "export", run, "-o", file); code != 0 {
			t.Fatalf("export: %s", stderr)
		}
		again := h.replay(file)
		byID := func(a, b found) int { return cmp.Compare(a.ID, b.ID) }
		slices.SortFunc(live, byID)
		slices.SortFunc(again.Detections, byID)
		if diff := gocmp.Diff(live, again.Detections); diff != "" || again.Trace != run {
			t.Errorf("replay of %s (-live +replayed):\n%s", again.Trace, diff)
		}
	}
	h.judge()
}

// judge calls the run's finding a false alarm and tries rules without it.
func (h *house) judge() {
	h.t.Helper()
	id := h.live("kept")[0].ID
	if _, stderr, code := h.agentctl("findings", "false-alarm", id, "--note", "injected on purpose", "--by", "ada"); code != 0 {
		h.t.Fatalf("false-alarm: %s", stderr)
	}
	r := h.await("kept", nil)
	entry := r.Incidents[0].Timeline[len(r.Incidents[0].Timeline)-1]
	if entry.Action != "feedback" || !strings.Contains(entry.Text, "ada called finding "+id) || !strings.Contains(entry.Text, "injected on purpose") {
		h.t.Errorf("the timeline ends with %v", entry)
	}
	file := filepath.Join(h.t.TempDir(), "kept.jsonl")
	if _, stderr, code := h.agentctl("runs", "export", "kept", "-o", file); code != 0 {
		h.t.Fatalf("export: %s", stderr)
	}
	changed := filepath.Join(h.t.TempDir(), "rules.yaml")
	if err := os.WriteFile(changed, []byte("modes: {nonfinite: off}\n"), 0o600); err != nil {
		h.t.Fatal(err)
	}
	for _, tc := range []struct {
		args  []string
		again bool
	}{{[]string{file}, true}, {[]string{"--rules", changed, file}, false}} {
		got := h.replay(tc.args...)
		if len(got.Recorded) != 1 || got.Recorded[0].Finding != id || got.Recorded[0].Verdict != "false alarm" || got.Recorded[0].Again != tc.again {
			h.t.Errorf("replay %v: recorded %+v, want the false alarm found again: %v", tc.args, got.Recorded, tc.again)
		}
	}
}
