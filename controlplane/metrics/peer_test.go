package metrics

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"

	"github.com/vigil-ml/vigil/internal/testkit"
)

// peer is a real Prometheus, with whatever its configuration says.
type peer struct{ url, dir string }

func startPeer(t *testing.T, config string) peer {
	t.Helper()
	p := peer{url: "http://127.0.0.1:" + testkit.FreePort(t), dir: t.TempDir()}
	if err := os.WriteFile(filepath.Join(p.dir, "prometheus.yml"), []byte(strings.ReplaceAll(config, "SELF", strings.TrimPrefix(p.url, "http://"))), 0o600); err != nil {
		t.Fatal(err)
	}
	p.run(t)
	return p
}

// run starts it, again after kill with what it had.
func (p peer) run(t *testing.T) (kill func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, testkit.Require(t, "prometheus"), "--config.file="+filepath.Join(p.dir, "prometheus.yml"),
		"--storage.tsdb.path="+filepath.Join(p.dir, "data"), "--web.listen-address="+strings.TrimPrefix(p.url, "http://"),
		"--web.enable-remote-write-receiver", "--enable-feature=exemplar-storage,native-histograms", "--log.level=error")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		cancel()
		_ = cmd.Wait()
	})
	t.Cleanup(func() {
		kill()
		if t.Failed() {
			t.Log(output.String())
		}
	})
	testkit.Eventually(t, "Prometheus", func() bool {
		response, err := http.Get(p.url + "/-/ready")
		if err != nil {
			return false
		}
		_ = response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return kill
}

// push sends series by remote write.
func push(t *testing.T, address string, series []prompb.TimeSeries) {
	t.Helper()
	body, err := (&prompb.WriteRequest{Timeseries: series}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address+"/api/v1/write", bytes.NewReader(snappy.Encode(nil, body)))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-protobuf")
	request.Header.Set("Content-Encoding", "snappy")
	request.Header.Set("X-Prometheus-Remote-Write-Version", "0.1.0")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(response.Body)
	_ = response.Body.Close()
	if response.StatusCode/100 != 2 {
		t.Fatalf("remote write: %d %s", response.StatusCode, text)
	}
}

const peerStep = 15 * time.Second

// peerSeries is forty minutes of what exporters push: counters, gauges that jump
// and end, odd values and names, a classic and a native histogram, exemplars.
func peerSeries(from time.Time) (all []prompb.TimeSeries) {
	add := func(value func(i int) float64, pairs ...string) *prompb.TimeSeries {
		one := prompb.TimeSeries{Labels: prompb.FromLabels(labels.FromStrings(pairs...), nil)}
		for i := range 160 {
			if v := value(i); v != gone {
				one.Samples = append(one.Samples, prompb.Sample{Timestamp: from.Add(time.Duration(i) * peerStep).UnixMilli(), Value: v})
			}
		}
		all = append(all, one)
		return &all[len(all)-1]
	}
	for j, job := range []string{"api", "web"} {
		for k, instance := range []string{"a:1", "b:1", "c:1"} {
			for c, code := range []string{"200", "500"} {
				add(func(i int) float64 { return float64((i % (60 + 20*j)) * (k + 1) * (3 - 2*c)) }, "__name__", "requests_total", "job", job, "instance", instance, "code", code)
			}
			add(func(i int) float64 { return 1 }, "__name__", "up", "job", job, "instance", instance)
		}
		for b, le := range []string{"0.1", "0.5", "1", "+Inf"} {
			s := add(func(i int) float64 { return float64(i * (b + 1 + j)) }, "__name__", "latency_seconds_bucket", "job", job, "le", le)
			s.Exemplars = []prompb.Exemplar{{Labels: prompb.FromLabels(labels.FromStrings("trace_id", fmt.Sprintf("%032x", b+1)), nil),
				Value: 0.05 * float64(b+1), Timestamp: from.Add(time.Minute).UnixMilli()}}
		}
		add(func(i int) float64 { return float64(i * (4 + j)) }, "__name__", "latency_seconds_count", "job", job)
		add(func(i int) float64 { return float64(i) * 1.75 }, "__name__", "latency_seconds_sum", "job", job)
	}
	add(func(i int) float64 { return 20 + 5*math.Sin(float64(i)/9) }, "__name__", "temperature", "room", "north")
	add(func(i int) float64 { return []float64{math.NaN(), math.Inf(1), math.Inf(-1), 1e-9, 1e22, -0.5}[i%6] }, "__name__", "temperature", "room", "odd")
	add(func(i int) float64 { return map[bool]float64{true: 3, false: gone}[i < 100] }, "__name__", "temperature", "room", "gone")
	add(func(int) float64 { return 1 }, "__name__", "build_info", "version", "1.2", "text", "é<\"\\\n>&")
	native := prompb.TimeSeries{Labels: prompb.FromLabels(labels.FromStrings("__name__", "native_seconds", "job", "api"), nil)}
	for i := range 160 {
		native.Histograms = append(native.Histograms, prompb.FromIntHistogram(from.Add(time.Duration(i)*peerStep).UnixMilli(), &histogram.Histogram{
			Count: uint64(5 * (i + 1)), ZeroCount: uint64(i + 1), ZeroThreshold: 0.001, Sum: 18.4 * float64(i+1), Schema: 1,
			PositiveSpans: []histogram.Span{{Offset: 0, Length: 2}, {Offset: 1, Length: 1}}, PositiveBuckets: []int64{int64(i + 1), int64(i + 1), -int64(i + 1)},
		}))
	}
	return append(all, native)
}

const gone = -12345 // no sample at that time

// peerExpressions are asked for at one time and over a range.
func peerExpressions() []string {
	return []string{
		`up`, `requests_total{job="api"}`, `{__name__=~"latency_.*",job!="web"}`, `requests_total{instance=~"a.*|c.*",code!~"5.."}`, `nothing`, `nothing or vector(7)`,
		`rate(requests_total[5m])`, `irate(requests_total[1m])`, `increase(requests_total{code="500"}[10m])`, `sum by (job) (rate(requests_total[5m]))`,
		`sum without (instance, code) (requests_total)`, `avg(temperature)`, `min(requests_total) by (job)`, `max(requests_total)`, `count(requests_total)`,
		`count_values("v", up)`, `stddev(requests_total)`, `stdvar by (job) (requests_total)`, `group(up)`, `topk(2, requests_total)`, `bottomk(1, requests_total{code="200"})`,
		`quantile(0.9, requests_total)`, `quantile by (job) (0.5, requests_total)`, `histogram_quantile(0.9, sum by (le, job) (rate(latency_seconds_bucket[5m])))`,
		`native_seconds`, `histogram_count(native_seconds)`, `histogram_sum(rate(native_seconds[2m]))`, `sum(native_seconds) + sum(native_seconds)`,
		`latency_seconds_sum / latency_seconds_count`, `requests_total{code="500"} / ignoring(code) requests_total{code="200"}`,
		`sum by (job) (requests_total) / on(job) group_left() count by (job) (up)`, `up and on(job) requests_total{job="api"}`, `up unless on(job) requests_total{job="web"}`, `up or temperature`,
		`temperature > 20`, `temperature > bool 20`, `requests_total == 0`, `1 < bool 2`, `2 ^ 3 ^ 0.5 - -1 % 4`, `-temperature`, `"text"`, `time()`, `vector(time())`, `scalar(up{job="none"})`, `scalar(sum(up))`,
		`avg_over_time(temperature{room="north"}[5m])`, `max_over_time(temperature[3m])`, `min_over_time(temperature[3m])`, `sum_over_time(up[2m])`, `count_over_time(temperature[10m])`,
		`last_over_time(temperature[20m])`, `present_over_time(temperature[2m])`, `quantile_over_time(0.5, temperature{room="north"}[5m])`, `stddev_over_time(temperature{room="north"}[5m])`,
		`deriv(temperature{room="north"}[10m])`, `predict_linear(temperature{room="north"}[10m], 3600)`, `delta(temperature{room="north"}[5m])`, `idelta(temperature[1m])`, `changes(requests_total[10m])`, `resets(requests_total[30m])`,
		`absent(nothing{job="x"})`, `absent(up)`, `absent_over_time(nothing[5m])`, `abs(temperature)`, `ceil(temperature)`, `floor(temperature)`, `round(temperature, 0.5)`, `clamp(temperature, 0, 22)`, `exp(vector(1))`, `ln(temperature)`, `log2(up)`, `sqrt(temperature)`, `sgn(temperature)`,
		`label_replace(up, "host", "$1", "instance", "(.*):.*")`, `label_join(up, "both", "-", "job", "instance")`, `sort(requests_total{code="200"})`, `sort_desc(requests_total{code="200"})`,
		`hour()`, `minute(vector(0))`, `day_of_week()`, `timestamp(up)`, `requests_total offset 10m`, `requests_total offset -5m`, `rate(requests_total[5m] offset 3m)`, `rate(requests_total[5m] @ end())`,
		`max_over_time(rate(requests_total[2m])[10m:1m])`, `sum_over_time((up > 0)[5m:30s])`, `build_info`, `temperature{room="odd"} * 2`, `(1, 2)`, `sum(`, `up{`, `requests_total[5m]`, `rate(up)`, `up + on() up`, `up[5m:0s]`,
	}
}

// answered is an answer with what must be the same: of an error, its kind.
type answered struct {
	Code   int
	Status string
	Kind   string
	Data   any
}

func askPeer(t *testing.T, address, path string, form url.Values, post bool) (a answered) {
	t.Helper()
	var response *http.Response
	var err error
	if post {
		response, err = http.PostForm(address+"/api/v1/"+path, form)
	} else {
		response, err = http.Get(address + "/api/v1/" + path + "?" + form.Encode())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var body struct {
		Status, ErrorType string
		Data              any
	}
	decoder := json.NewDecoder(response.Body)
	decoder.UseNumber()
	if err := decoder.Decode(&body); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return answered{response.StatusCode, body.Status, body.ErrorType, rounded(body.Data)}
}

// rounded gives numbers with twelve digits: the last ones depend on the order of
// adding up, which differs between Prometheus' versions.
func rounded(data any) any {
	switch v := data.(type) {
	case map[string]any:
		for key := range v {
			v[key] = rounded(v[key])
		}
	case []any:
		for i := range v {
			v[i] = rounded(v[i])
		}
	case json.Number:
		f, _ := v.Float64()
		return f
	case string:
		if f, err := strconv.ParseFloat(v, 64); err == nil {
			return strconv.FormatFloat(f, 'g', 12, 64)
		}
	}
	return data
}

// unordered sorts the series of an answer: only sort and topk say an order.
func unordered(expression string, data any) {
	object, _ := data.(map[string]any)
	result, _ := object["result"].([]any)
	if strings.HasPrefix(expression, "sort") || strings.HasPrefix(expression, "topk") || object["resultType"] != "vector" && object["resultType"] != "matrix" {
		return
	}
	slices.SortFunc(result, func(a, b any) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
}

// TestSameAsPrometheus asks a control plane's store and a real Prometheus, which
// had the same remote write, the same questions: the answers are the same.
func TestSameAsPrometheus(t *testing.T) {
	real := startPeer(t, "global: {}\n")
	ours := serve(t, openLive(t, nil))
	from := time.Now().Add(-40 * time.Minute).Truncate(time.Minute)
	series := peerSeries(from)
	push(t, real.url, series)
	push(t, ours, series)
	// Between two samples: before version 3 a range had also what lies on its edge.
	at := from.Add(30*time.Minute + 7*time.Second)
	seconds := func(at time.Time) string { return fmt.Sprintf("%d.25", at.Unix()) }
	asked := 0
	same := func(path string, form url.Values, post bool) {
		t.Helper()
		asked++
		want, got := askPeer(t, real.url, path, form, post), askPeer(t, ours, path, form, post)
		unordered(form.Get("query"), want.Data)
		unordered(form.Get("query"), got.Data)
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("%s?%v (-Prometheus +Vigil):\n%s", path, form, diff)
		}
	}
	for i, expression := range peerExpressions() {
		same("query", url.Values{"query": {expression}, "time": {seconds(at)}}, i%2 == 0)
		same("query_range", url.Values{"query": {expression}, "start": {seconds(at.Add(-20 * time.Minute))}, "end": {seconds(at)}, "step": {"30"}}, i%2 == 1)
	}
	for _, form := range []string{
		"labels", "labels?match[]=up", "labels?match[]=up&match[]=temperature", "labels?start=0&end=1", "labels?match[]={", "labels?start=x",
		"label/job/values", "label/__name__/values", "label/__name__/values?match[]={job=\"api\"}", "label/code/values?match[]=requests_total", "label/none/values", "label/job/values?start=0&end=1",
		"series?match[]=up", "series?match[]={__name__=~\"lat.*\"}&match[]=up", "series?match[]=none", "series", "series?match[]={}", "series?match[]=up&start=0&end=1",
		"format_query?query=sum(rate(x[5m]))by(job)/2", "format_query?query=sum(", "query_exemplars?query=latency_seconds_bucket", "query_exemplars?query=histogram_quantile(0.9,rate(latency_seconds_bucket{job=\"api\"}[5m]))",
		"query_exemplars?query=up", "query_exemplars?query=sum(", "query_exemplars?query=up&start=2&end=1", "rules", "rules?type=alert", "rules?type=x", "alerts",
		"query", "query?query=up&time=noon", "query?query=up&timeout=long", "query_range?query=up&start=0&end=20000&step=1", "query_range?query=up&start=2&end=1&step=1", "query_range?query=up&start=1&end=2&step=0", "query_range?query=up&end=2&step=1",
	} {
		path, query, _ := strings.Cut(form, "?")
		values := url.Values{}
		for pair := range strings.SplitSeq(query, "&") {
			if name, value, ok := strings.Cut(pair, "="); ok {
				values.Add(name, value)
			}
		}
		same(path, values, false)
		if !strings.HasPrefix(path, "label/") && path != "rules" && path != "alerts" {
			same(path, values, true)
		}
	}
	sameStatus(t, real.url, ours)
	t.Logf("%d questions", asked)
	samePromtool(t, real.url, ours, seconds(at))
}

// sameStatus asks both which metrics and labels have the most series. Debian's
// Prometheus has other chunks, counts more bytes for a string, and has no limit.
func sameStatus(t *testing.T, real, ours string) {
	t.Helper()
	var said [2]map[string]any
	for i, address := range []string{real, ours} {
		said[i], _ = askPeer(t, address, "status/tsdb", nil, false).Data.(map[string]any)
		delete(said[i], "headStats")
		delete(said[i], "memoryInBytesByLabelName")
		delete(said[i], "seriesCountByLabelValuePair") // of many that are as many it is any ten
		for _, list := range said[i] {                 // and in any order
			slices.SortFunc(list.([]any), func(a, b any) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		}
	}
	if diff := gocmp.Diff(said[0], said[1]); diff != "" || len(said[0]) == 0 {
		t.Errorf("status/tsdb (-Prometheus +Vigil):\n%s", diff)
	}
	for limit, want := range map[string]int{"2": 2, "10000000": 8, "0": 0, "x": 0} {
		got, _ := askPeer(t, ours, "status/tsdb", url.Values{"limit": {limit}}, false).Data.(map[string]any)
		if list, _ := got["seriesCountByMetricName"].([]any); len(list) != want {
			t.Errorf("status/tsdb?limit=%s has %d metrics, want %d", limit, len(list), want)
		}
	}
}

// samePromtool has promtool ask both.
func samePromtool(t *testing.T, real, ours, at string) {
	t.Helper()
	program := testkit.Require(t, "promtool")
	for _, args := range [][]string{
		{"query", "instant", "--time=" + at, "", `sum by (job) (rate(requests_total[5m]))`}, {"query", "instant", "--time=" + at, "", `temperature`},
		{"query", "range", "--start=1795860000", "--end=" + at, "--step=30s", "", `up`}, {"query", "series", "--match=up", ""}, {"query", "labels", "", "job"},
	} {
		place := slices.Index(args, "")
		var said [2]string
		for i, address := range []string{real, ours} {
			args[place] = address
			out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
			if err != nil {
				t.Errorf("promtool %v: %v %s", args, err, out)
			}
			said[i] = string(out)
		}
		if diff := gocmp.Diff(said[0], said[1]); diff != "" || said[0] == "" {
			t.Errorf("promtool %v (-Prometheus +Vigil):\n%s", args, diff)
		}
	}
}
