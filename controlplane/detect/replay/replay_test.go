package replay_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/controlplane/detect/replay"
	"github.com/vigil-ml/vigil/controlplane/detect/rules"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

func list() []detect.Rule { return rules.All(rules.Defaults()) }

func read(t *testing.T, text string) (*replay.Reader, []replay.Row) {
	t.Helper()
	r := replay.NewReader("file", strings.NewReader(text))
	var rows []replay.Row
	for {
		row, err := r.Next()
		if err == io.EOF {
			return r, rows
		}
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, row)
	}
}

func TestRowsBecomeEvents(t *testing.T) {
	_, rows := read(t, `{"step": 7, "t": 1.25, "rank": 3, "node": "n3", "loss": "-Infinity", "grad_norm": 2, "lr": 0.1, "step_time_s": 0.2, "data_time_s": 0.01, "compute_time_s": 0.1, "comm_time_s": 0.05, "rss_bytes": 9, "gpu_mem_bytes": 8, "device_util": 0.5, "tokens": 4, "samples": 2}
{"heartbeat": true, "step": 7, "t": 2}
{"step": 8, "t": 3}`)
	loss := math.Inf(-1)
	want := []*commonv1.Event{
		{RunId: "file", Rank: 3, Node: "n3", Time: &timestamppb.Timestamp{Seconds: 1, Nanos: 250000000}, Body: &commonv1.Event_Step{Step: &commonv1.StepReport{
			Step: 7, Loss: &loss, GradientNorm: proto.Float64(2), LearningRate: proto.Float64(0.1), StepSeconds: proto.Float64(0.2),
			DataSeconds: proto.Float64(0.01), ComputeSeconds: proto.Float64(0.1), CommunicationSeconds: proto.Float64(0.05),
			ResidentBytes: proto.Int64(9), GpuMemoryBytes: proto.Int64(8), DeviceUtilization: proto.Float64(0.5),
			Tokens: proto.Int64(4), Samples: proto.Int64(2)}}},
		{RunId: "file", Time: &timestamppb.Timestamp{Seconds: 2}, Body: &commonv1.Event_Tick{Tick: &commonv1.Tick{LastStep: 7}}},
		{RunId: "file", Time: &timestamppb.Timestamp{Seconds: 3}, Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: 8}}},
	}
	for i, row := range rows {
		if diff := cmp.Diff(want[i], row.Event, protocmp.Transform()); diff != "" || row.Index != i {
			t.Errorf("row %d, index %d: -want +got:\n%s", i, row.Index, diff)
		}
	}
	if len(rows) != len(want) {
		t.Errorf("%d rows, want %d", len(rows), len(want))
	}
}

func TestHeaders(t *testing.T) {
	for first, want := range map[string]string{
		"":                                 "file",
		`{"trace": "gen-1", "label": "x"}`: "gen-1",
		`{"world_size": 8}`:                "file",
		`{}`:                               "file",
	} {
		r, rows := read(t, first+"\n"+`{"step": 1, "t": 0}`)
		if r.Name() != want || len(rows) != 1 || rows[0].Index != 0 {
			t.Errorf("%q: trace %q, %d rows", first, r.Name(), len(rows))
		}
	}
}

// TestDamagedLinesAreNamed keeps the place of every row after a damaged one.
func TestDamagedLinesAreNamed(t *testing.T) {
	r, rows := read(t, `{"step": 1, "t": 0}
{"step": 2, "t": 1, "loss": 
{"t": 2}
{"step": 4, "t": 3, "loss": "large"}

{"step": -5, "t": 4}
{"step": 6, "t": "NaN"}
{"step": 7, "t": 6}`)
	count, damage := r.Damaged()
	var lines []int
	for _, d := range damage {
		if lines = append(lines, d.Line); d.Why == "" {
			t.Errorf("line %d: no reason", d.Line)
		}
	}
	if diff := cmp.Diff([]int{2, 3, 4, 6, 7}, lines); diff != "" || count != 5 {
		t.Errorf("%d damaged lines: -want +got:\n%s", count, diff)
	}
	if len(rows) != 2 || rows[1].Index != 6 {
		t.Errorf("rows: %v", rows)
	}
	many := replay.NewReader("x", strings.NewReader(strings.Repeat("?\n", 100)))
	if _, err := many.Next(); err != io.EOF {
		t.Error(err)
	}
	if count, damage := many.Damaged(); count != 100 || len(damage) != 8 {
		t.Errorf("%d damaged lines, %d of them named; want 100 and 8", count, len(damage))
	}
}

func TestALineWithoutEndIsAnError(t *testing.T) {
	result, err := replay.Run("x", io.MultiReader(strings.NewReader("{\"step\":1,\"t\":0}\n"), strings.NewReader(strings.Repeat(" ", 2<<20))), list())
	if err == nil || !strings.Contains(err.Error(), "line 2") || result.Rows != 1 {
		t.Errorf("%d rows, error %v", result.Rows, err)
	}
}

// nanTrace is a trace whose loss is NaN in a row.
func nanTrace(at int) string {
	var b strings.Builder
	for i := range 50 {
		loss := "2.5"
		if i >= at {
			loss = `"NaN"`
		}
		fmt.Fprintf(&b, `{"step": %d, "t": %d, "loss": %s}`+"\n", 100+i, i, loss)
	}
	return b.String()
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = io.WriteString(z, nanTrace(7))
	_ = z.Close()
	for name, text := range map[string]string{"b.jsonl.gz": zipped.String(), "a.jsonl": nanTrace(3), "notes.txt": "", "c.jsonl.gz": "no"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, err := replay.Files(dir, filepath.Join(dir, "notes.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range files {
		names = append(names, filepath.Base(file))
	}
	if diff := cmp.Diff([]string{"a.jsonl", "b.jsonl.gz", "c.jsonl.gz", "notes.txt"}, names); diff != "" {
		t.Fatalf("-want +got:\n%s", diff)
	}
	for i, want := range []string{"a 3 103", "b 7 107"} {
		result, err := replay.File(files[i], list())
		if err != nil || len(result.Detections) != 1 {
			t.Fatalf("%s: %v, %v", files[i], result, err)
		}
		d := result.Detections[0]
		if got := fmt.Sprintf("%s %d %d", result.Trace, d.Row, d.Finding.GetStep()); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if _, err := replay.File(files[2], list()); !fault.Is(err, fault.Invalid) {
		t.Errorf("of a file that is not gzipped: %v", err)
	}
	for _, path := range []string{filepath.Join(dir, "none"), t.TempDir()} {
		if _, err := replay.Files(path); !fault.Is(err, fault.NotFound) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestReplayIsLive gives a bank the events that a live run has, among those of
// another run, and compares with the replay of the same rows.
func TestReplayIsLive(t *testing.T) {
	text := nanTrace(20)
	replayed, err := replay.Run("run", strings.NewReader(text), list())
	if err != nil {
		t.Fatal(err)
	}
	live, found := detect.NewBank(list()), 0
	r := replay.NewReader("run", strings.NewReader(text))
	for {
		row, err := r.Next()
		if err != nil {
			break
		}
		other := proto.CloneOf(row.Event)
		other.RunId, other.Rank = "other", 5
		live.Observe(other)
		for _, f := range live.Observe(row.Event) {
			if diff := cmp.Diff(replayed.Detections[found].Finding, f, protocmp.Transform()); diff != "" {
				t.Errorf("-replay +live:\n%s", diff)
			}
			found++
		}
	}
	if found != len(replayed.Detections) || found == 0 {
		t.Errorf("%d findings live, %d in the replay", found, len(replayed.Detections))
	}
}

// FuzzRun reads anything: it neither fails nor takes a damaged line for a row.
func FuzzRun(f *testing.F) {
	f.Add([]byte(nanTrace(3)))
	f.Add([]byte("{\"world_size\":4}\n{\"step\":1,\"t\":1e300,\"rank\":4294967295,\"loss\":1e308}\n{\"heartbeat\":true,\"step\":1,\"t\":-4}"))
	f.Add([]byte("{\"step\":9223372036854775807,\"t\":1}\n{\"step\":0,\"t\":\"Infinity\"}\nnull\n[]\n\"\"\n{\"step\":null}"))
	f.Add([]byte("{\"step\":1,\"t\":1,\"step_time_s\":-1,\"data_time_s\":1e-320,\"rss_bytes\":-5,\"tokens\":-1,\"grad_norm\":\"-Infinity\"}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		one, err := replay.Run("x", bytes.NewReader(text), list())
		if err != nil {
			t.Skip() // a line without end
		}
		two, _ := replay.Run("x", bytes.NewReader(text), list())
		if lines := bytes.Count(text, []byte("\n")) + 1; one.Rows+one.Damaged > lines {
			t.Errorf("%d rows and %d damaged lines of %d", one.Rows, one.Damaged, lines)
		}
		if len(one.Detections) != len(two.Detections) {
			t.Fatalf("%d findings, then %d", len(one.Detections), len(two.Detections))
		}
		for i, d := range one.Detections {
			if !proto.Equal(d.Finding, two.Detections[i].Finding) {
				t.Errorf("%v, then %v", d.Finding, two.Detections[i].Finding)
			}
			for name, v := range d.Finding.GetEvidence() {
				if math.IsNaN(v) || math.IsInf(v, 0) {
					t.Errorf("%s: %s is %v, which JSON has no number for", d.Finding.GetKind(), name, v)
				}
			}
		}
	})
}
