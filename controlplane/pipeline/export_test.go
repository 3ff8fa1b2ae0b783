package pipeline

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/controlplane/detect/replay"
	"github.com/vigil-ml/vigil/controlplane/detect/rules"
	"github.com/vigil-ml/vigil/controlplane/store"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// exportOf writes a run as agentctl runs export does, from the bus's frames.
func exportOf(t *testing.T, run string, frames []bus.Delivery) string {
	t.Helper()
	var out bytes.Buffer
	put := func(record *controlv1.ExportRecord) {
		if err := replay.WriteRecord(&out, record); err != nil {
			t.Fatal(err)
		}
	}
	put(&controlv1.ExportRecord{Record: &controlv1.ExportRecord_Header{Header: replay.Header(&controlv1.Run{RunId: run}, "")}})
	for _, frame := range frames {
		for _, event := range frame.Batch.GetEvents() {
			if event.GetRunId() == run {
				put(&controlv1.ExportRecord{Record: &controlv1.ExportRecord_Event{Event: &controlv1.RunEvent{Sequence: frame.Sequence, Event: event}}})
			}
		}
	}
	path := filepath.Join(t.TempDir(), run+".jsonl")
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestLiveEqualsReplay holds that a replay of an exported run finds, to the
// last bit, what the pipeline found live, also one that was stopped and started
// again on the way.
func TestLiveEqualsReplay(t *testing.T) {
	found := 0
	for seed := range uint64(4) {
		frames := write(seed, 8)
		path := filepath.Join(t.TempDir(), "vigil.db")
		for end := 0; end < len(frames); end += 1 + len(frames)/3 {
			stop := min(end+1+len(frames)/3, len(frames))
			p, s := setup(t, path, &fakeBus{frames: frames[:stop]})
			p.deps.NewBank = func() Bank { return detect.NewBank(rules.All(rules.Defaults())) }
			run(t, p)
			if stop == len(frames) {
				found += compare(t, s, frames)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if found < 8 {
		t.Errorf("only %d findings: the test shows little", found)
	}
}

// compare replays every run and gives the number of findings.
func compare(t *testing.T, s *store.Store, frames []bus.Delivery) (found int) {
	t.Helper()
	for n := range 8 {
		name := fmt.Sprint("run", n)
		var live []*controlv1.Finding
		err := s.View(t.Context(), func(tx *store.Tx) error {
			records, err := tx.Findings(name, "", 0)
			for _, record := range records {
				record.Finding.Created = nil // when it was made differs, of course
				live = append(live, record.Finding)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		result, err := replay.File(exportOf(t, name, frames), rules.All(rules.Defaults()))
		if err != nil || result.Damaged > 0 {
			t.Fatalf("replay: %v, %d lines damaged: %v", err, result.Damaged, result.Damage)
		}
		var again []*controlv1.Finding
		for _, d := range result.Detections {
			again = append(again, d.Finding)
		}
		byID := func(a, b *controlv1.Finding) int { return bytes.Compare([]byte(a.FindingId), []byte(b.FindingId)) }
		slices.SortFunc(live, byID)
		slices.SortFunc(again, byID)
		if diff := cmp.Diff(live, again, protocmp.Transform()); diff != "" {
			t.Fatalf("%s: (-live +replayed):\n%s", name, diff)
		}
		found += len(live)
	}
	return found
}

// TestShadowFindingsOpenNothing: they are kept, and there is no incident.
func TestShadowFindingsOpenNothing(t *testing.T) {
	p, s := setup(t, filepath.Join(t.TempDir(), "vigil.db"), &fakeBus{frames: write(3, 4)})
	p.deps.NewBank = func() Bank {
		rule := rules.NonFinite()
		rule.Shadow = true
		return detect.NewBank([]detect.Rule{rule})
	}
	run(t, p)
	err := s.View(t.Context(), func(tx *store.Tx) error {
		found, err := tx.Findings("", "nonfinite", 0)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			t.Error("there is no finding")
		}
		for _, record := range found {
			if !record.GetFinding().GetShadow() || record.GetIncidentId() != "" {
				t.Errorf("record %v", record)
			}
		}
		incidents, err := tx.Incidents("", 0)
		if len(incidents) > 0 {
			t.Errorf("%d incidents of rules that are only tried", len(incidents))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestChangedSettingsHoldForNewEvents: a pipeline that starts again with other
// rules leaves what was found as it was, and finds what comes as they say.
func TestChangedSettingsHoldForNewEvents(t *testing.T) {
	frames := write(1, 8)
	path := filepath.Join(t.TempDir(), "vigil.db")
	half := len(frames) * 5 / 8
	kept := map[string]*controlv1.Finding{}
	for n, shadow := range []bool{true, false} {
		stop, had := []int{half, len(frames)}[n], len(kept)
		p, s := setup(t, path, &fakeBus{frames: frames[:stop]})
		p.deps.NewBank = func() Bank {
			rule := rules.NonFinite()
			rule.Shadow = shadow
			return detect.NewBank([]detect.Rule{rule})
		}
		run(t, p)
		err := s.View(t.Context(), func(tx *store.Tx) error {
			found, err := tx.Findings("", "", 0)
			for _, record := range found {
				f := record.Finding
				if before := kept[f.GetFindingId()]; before != nil {
					if diff := cmp.Diff(before, f, protocmp.Transform()); diff != "" {
						t.Errorf("a finding changed: %s", diff)
					}
				} else if f.GetShadow() != shadow {
					t.Errorf("pass %d: finding %v, want shadow %v", n, f, shadow)
				}
				kept[f.GetFindingId()] = f
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(kept) == had {
			t.Errorf("pass %d: no new finding", n)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
