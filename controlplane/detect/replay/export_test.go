package replay_test

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/controlplane/detect/replay"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// exported writes an export of a run whose loss is NaN at step 3.
func exported(t *testing.T, recorded ...*controlv1.FindingRecord) []byte {
	t.Helper()
	var out bytes.Buffer
	put := func(record *controlv1.ExportRecord) {
		if err := replay.WriteRecord(&out, record); err != nil {
			t.Fatal(err)
		}
	}
	put(&controlv1.ExportRecord{Record: &controlv1.ExportRecord_Header{Header: replay.Header(&controlv1.Run{RunId: "r"}, "recorded: settings")}})
	for _, f := range recorded {
		put(&controlv1.ExportRecord{Record: &controlv1.ExportRecord_Finding{Finding: f}})
	}
	for i, loss := range []float64{1, 1, math.NaN(), 1} {
		put(&controlv1.ExportRecord{Record: &controlv1.ExportRecord_Event{Event: &controlv1.RunEvent{
			Sequence: uint64(i + 1), Event: &commonv1.Event{
				EventId: string(rune('a' + i)), RunId: "r", Node: "n", Time: &timestamppb.Timestamp{Seconds: int64(100 + i)},
				Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: int64(i + 1), Loss: &loss}},
			}}}})
	}
	return out.Bytes()
}

func write(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// asked gives the rules and remembers which settings it was asked for.
func asked(settings *string) replay.RulesFor {
	return func(recorded string) ([]detect.Rule, []detect.NodeRule, error) {
		*settings = recorded
		return list(), nil, nil
	}
}

func TestExport(t *testing.T) {
	same := &controlv1.FindingRecord{Finding: &controlv1.Finding{Kind: "nonfinite", OnsetStep: 3, Step: 3}}
	gone := &controlv1.FindingRecord{Finding: &controlv1.Finding{Kind: "nonfinite", OnsetStep: 1, Step: 2}}
	data := append(exported(t, same, gone), "{\"event\":{}}\nno json\n"...)
	var settings string
	got, err := replay.FileWith(write(t, "any.jsonl", data), asked(&settings))
	if err != nil {
		t.Fatal(err)
	}
	if settings != "recorded: settings" || !got.Exported || got.Trace != "r" || got.Rows != 4 || got.Damaged != 2 || got.Damage[0].Line != 8 {
		t.Errorf("settings %q, result %+v", settings, got)
	}
	if len(got.Detections) != 1 {
		t.Fatalf("detections: %v", got.Detections)
	}
	d := got.Detections[0]
	want := detect.ID("nonfinite", 3, &commonv1.Event{RunId: "r", EventId: "c"})
	if d.Finding.GetFindingId() != want || d.Row != 2 || d.Time != 2 {
		t.Errorf("finding %s in row %d at %v, want %s in row 2 at 2", d.Finding.GetFindingId(), d.Row, d.Time, want)
	}
	if len(got.Recorded) != 2 {
		t.Fatalf("recorded: %v", got.Recorded)
	}
	if _, again := got.Again(got.Recorded[0].GetFinding()); !again {
		t.Error("the same finding is not found again")
	}
	if f, again := got.Again(got.Recorded[1].GetFinding()); again {
		t.Errorf("a finding that is gone is found again as %v", f)
	}
}

func TestATraceIsNoExport(t *testing.T) {
	var settings string
	got, err := replay.FileWith(write(t, "t.jsonl", []byte("{\"world_size\":8}\n{\"step\":1,\"t\":1,\"loss\":1}\n")), asked(&settings))
	if err != nil || got.Exported || got.Rows != 1 || got.Trace != "t" || settings != "" {
		t.Errorf("%+v, %v, settings %q", got, err, settings)
	}
}

func TestAnExportOfAnotherVersionIsRefused(t *testing.T) {
	var settings string
	for _, text := range []string{`{"header":{"version":2}}`, `{"header":{"version":"x"}}`, `{"header":7}`} {
		_, err := replay.FileWith(write(t, "e.jsonl", []byte(text)), asked(&settings))
		if !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: error %v, want one of kind invalid", text, err)
		}
	}
}

// FuzzExport holds that no file takes the reader down, and that what cannot be
// read is counted.
func FuzzExport(f *testing.F) {
	f.Add(`{"event":{"sequence":"1","event":{"runId":"r","step":{"step":"1","loss":"NaN"}}}}`)
	f.Add(`{"finding":{"finding":{"kind":"hang"}}}`)
	f.Add("{")
	f.Fuzz(func(t *testing.T, text string) {
		var settings string
		got, err := replay.FileWith(write(t, "e.jsonl", []byte(`{"header":{"version":1}}`+"\n"+text)), asked(&settings))
		if lines := len(strings.Split(text, "\n")); err == nil && got.Rows+got.Damaged+len(got.Recorded) > lines {
			t.Errorf("%d rows, %d damaged and %d findings of %d lines", got.Rows, got.Damaged, len(got.Recorded), lines)
		}
	})
}
