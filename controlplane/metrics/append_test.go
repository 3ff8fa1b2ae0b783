package metrics

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/value"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/timestamppb"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"

	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// noon is when the tests happen.
func noon() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func openDB(t testing.TB, dir string) *DB {
	t.Helper()
	db, err := Open(Defaults(dir), Deps{Log: testkit.Logger(t), Clock: noon})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// load makes a sample so many seconds after noon.
func load(second int, v float64) metric.Sample {
	return metric.Sample{Def: metric.HostLoad1, Value: v, Time: noon().Add(time.Duration(second) * time.Second)}
}

func free(second int, mount string, v float64) metric.Sample {
	s := load(second, v)
	s.Def, s.Labels = metric.HostDiskAvailable, []string{mount}
	return s
}

func loads(from, to int) (samples []metric.Sample) {
	for i := from; i < to; i++ {
		samples = append(samples, load(i, float64(i)))
	}
	return samples
}

func mustAppend(t testing.TB, db *DB, node string, samples ...metric.Sample) Counts {
	t.Helper()
	counts, err := db.Append(t.Context(), node, samples)
	if err != nil {
		t.Fatal(err)
	}
	return counts
}

func TestAppendCounts(t *testing.T) {
	unknown := load(1, 1)
	unknown.Def.Name = "vigil_host_mood"
	many := load(1, 1)
	many.Labels = []string{"x"}
	nan := math.Float64frombits(value.StaleNaN)
	type step struct {
		name    string
		node    string
		samples []metric.Sample
		want    Counts
	}
	db := openDB(t, t.TempDir())
	for _, s := range []step{
		{"new", "a", loads(0, 100), Counts{Stored: 100}},
		{"nothing", "a", nil, Counts{}},
		{"the same again", "a", loads(0, 100), Counts{Repeated: 100}},
		{"the last again", "a", loads(99, 100), Counts{Repeated: 1}},
		{"overlap", "a", loads(50, 150), Counts{Stored: 50, Repeated: 50}},
		{"another value at the end", "a", []metric.Sample{load(149, -1)}, Counts{Refused: 1}},
		{"another value in the middle", "a", []metric.Sample{load(7, -1)}, Counts{Refused: 1}},
		{"another node", "b", loads(0, 10), Counts{Stored: 10}},
		{"another mount", "a", []metric.Sample{free(1, "/", 1), free(1, "/data", 2)}, Counts{Stored: 2}},
		{"labels that run together", "a", []metric.Sample{free(1, "", 3), free(1, "/", 1)}, Counts{Stored: 1, Repeated: 1}},
		{"out of order", "a", []metric.Sample{load(200, 1), load(190, 2), load(180, 3)}, Counts{Stored: 3}},
		{"out of order again", "a", []metric.Sample{load(180, 3), load(190, 2), load(185, 4)}, Counts{Stored: 1, Repeated: 2}},
		{"twice in one batch", "a", []metric.Sample{load(181, 1), load(181, 1), load(181, 2)}, Counts{Stored: 1, Repeated: 1, Refused: 1}},
		{"not in the dictionary", "a", []metric.Sample{unknown, many, load(201, 0)}, Counts{Stored: 1, Refused: 2}},
		{"too old", "a", []metric.Sample{load(-7*3600, 1)}, Counts{Refused: 1}},
		{"in the future", "a", []metric.Sample{load(700, 1), load(599, 1)}, Counts{Stored: 1, Refused: 1}},
		{"non-finite", "a", []metric.Sample{load(600, nan), load(600, math.NaN())}, Counts{Stored: 1, Repeated: 1}},
	} {
		if got := mustAppend(t, db, s.node, s.samples...); got != s.want {
			t.Errorf("%s: %+v, want %+v", s.name, got, s.want)
		}
	}
}

func TestARestartKeepsSamplesAndKnowsRepeats(t *testing.T) {
	dir := t.TempDir()
	db := openDB(t, dir)
	mustAppend(t, db, "a", loads(0, 100)...)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openDB(t, dir)
	if got := mustAppend(t, db, "a", loads(40, 60)...); got != (Counts{Repeated: 20}) {
		t.Errorf("a replay: %+v", got)
	}
	if got := mustAppend(t, db, "a", loads(90, 110)...); got != (Counts{Stored: 10, Repeated: 10}) {
		t.Errorf("a replay that goes on: %+v", got)
	}
	if got := mustAppend(t, db, "a", load(105, 105), load(110, 1)); got != (Counts{Stored: 1, Repeated: 1}) {
		t.Errorf("behind it: %+v", got)
	}
}

func TestForgottenSeriesAreLearnedAnew(t *testing.T) {
	db := openDB(t, t.TempDir())
	mustAppend(t, db, "a", loads(0, 100)...)
	db.node("a").forget()
	// Not at the last sample: what is known of the series must not end there.
	if got := mustAppend(t, db, "a", load(50, 50)); got != (Counts{Repeated: 1}) {
		t.Errorf("first: %+v", got)
	}
	if got := mustAppend(t, db, "a", loads(60, 101)...); got != (Counts{Stored: 1, Repeated: 40}) {
		t.Errorf("then: %+v", got)
	}
}

func TestAHandleOutlivesWhatIsForgotten(t *testing.T) {
	db := openDB(t, t.TempDir())
	held := db.Series("a", metric.HostLoad1.Name, nil)
	put := func(second int, v float64) Counts {
		t.Helper()
		counts, err := db.AppendPoints(t.Context(), "a", []Point{{held, noon().UnixMilli() + int64(second)*1000, v}})
		if err != nil {
			t.Fatal(err)
		}
		return counts
	}
	put(1, 1)
	db.node("a").forget()
	mustAppend(t, db, "a", load(2, 2)) // under a handle of its own
	for second, want := range map[int]Counts{1: {Repeated: 1}, 2: {Repeated: 1}} {
		if got := put(second, float64(second)); got != want {
			t.Errorf("second %d: %+v, want %+v", second, got, want)
		}
	}
	if got := put(3, 3); got != (Counts{Stored: 1}) {
		t.Errorf("a new one: %+v", got)
	}
	if db.Series("a", "vigil_mood", nil) != nil || db.Series("a", metric.HostLoad1.Name, map[string]string{"x": "y"}) != nil {
		t.Error("a series that is not in the dictionary was given")
	}
}

func TestAppendAfterCloseOrCancelFails(t *testing.T) {
	db := openDB(t, t.TempDir())
	mustAppend(t, db, "a", load(1, 1))
	db.node("a").forget()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if counts, err := db.Append(ctx, "a", []metric.Sample{load(1, 1)}); err == nil && counts.Repeated != 1 {
		t.Errorf("with a cancelled context: %+v, %v", counts, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Append(t.Context(), "a", []metric.Sample{load(2, 2)}); err == nil {
		t.Error("a closed database took a sample")
	}
}

func TestAppendStep(t *testing.T) {
	db := openDB(t, t.TempDir())
	event := &commonv1.Event{
		RunId: "r1", Rank: 3, Time: timestamppb.New(noon()),
		Body: &commonv1.Event_Step{Step: &commonv1.StepReport{
			Step: 7, Loss: new(math.NaN()), TaskLosses: map[string]float64{"left": 1.5, "right": math.Inf(1)},
			GradientNorm: new(0.0), ResidentBytes: new(int64(1 << 30)),
			Metrics: map[string]float64{"accuracy": 0.75},
		}},
	}
	for i, want := range []Counts{{Stored: 7}, {Repeated: 7}} {
		got, err := db.AppendStep(t.Context(), "a", event)
		if err != nil || got != want {
			t.Errorf("call %d: %+v, %v; want %+v", i, got, err, want)
		}
	}
	want := map[string]string{
		`{__name__="vigil_run_step", node="a", rank="3", run="r1"}`:                    "7",
		`{__name__="vigil_run_loss", node="a", rank="3", run="r1"}`:                    "NaN",
		`{__name__="vigil_run_task_loss", node="a", rank="3", run="r1", task="left"}`:  "1.5",
		`{__name__="vigil_run_task_loss", node="a", rank="3", run="r1", task="right"}`: "+Inf",
		`{__name__="vigil_run_gradient_norm", node="a", rank="3", run="r1"}`:           "0",
		`{__name__="vigil_run_resident_bytes", node="a", rank="3", run="r1"}`:          "1073741824",
		`{__name__="vigil_run_metric", name="accuracy", node="a", rank="3", run="r1"}`: "0.75",
	}
	got := map[string]string{}
	for labels, v := range instant(t, db, `{run="r1"}`) {
		got[labels] = v
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAppendStepOfOtherEvents(t *testing.T) {
	db := openDB(t, t.TempDir())
	started := &commonv1.Event{RunId: "r", Body: &commonv1.Event_AttemptStarted{}}
	if got, err := db.AppendStep(t.Context(), "a", started); err != nil || got != (Counts{}) {
		t.Errorf("no step: %+v, %v", got, err)
	}
	timeless := &commonv1.Event{RunId: "r", Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: 1, Loss: new(1.0)}}}
	if got, err := db.AppendStep(t.Context(), "a", timeless); err != nil || got != (Counts{Refused: 2}) {
		t.Errorf("no time: %+v, %v", got, err)
	}
}

func TestConfigCheck(t *testing.T) {
	check := func(c Config) (keys []string) {
		c.Check(func(key, _ string, _ ...any) { keys = append(keys, key) })
		return keys
	}
	if keys := check(Defaults("x")); keys != nil {
		t.Errorf("the defaults are refused: %v", keys)
	}
	want := []string{"dir", "retention", "max_bytes", "out_of_order_window", "query_timeout", "query_max_samples", "evaluation_interval", "query_concurrency"}
	if diff := cmp.Diff(want, check(Config{MaxBytes: -1, OutOfOrderWindow: -1})); diff != "" {
		t.Error(diff)
	}
}

func BenchmarkAppend(b *testing.B) {
	db := openDB(b, b.TempDir())
	const series = 1000
	samples := make([]metric.Sample, series)
	for i := range samples {
		samples[i] = free(0, string(rune('a'+i)), 1)
	}
	second := -5 * 3600 * 1000
	for b.Loop() {
		second++
		for i := range samples {
			samples[i].Time = noon().Add(time.Duration(second) * time.Millisecond)
		}
		mustAppend(b, db, "a", samples...)
	}
	b.ReportMetric(float64(b.N)*series/b.Elapsed().Seconds(), "samples/s")
}
