package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/internal/site"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	"github.com/vigil-ml/vigil/trainer"
)

// What the alerting benchmark does.
const (
	benchAlerts  = 10_000 // alerts, each a group of its own
	benchBatch   = 64     // alerts in one request, as Prometheus sends them
	benchRounds  = 5      // how often all of them are sent again
	deliverWait  = 15 * time.Second
	benchEvents  = 200 // runs whose gradient turns NaN
	clockTicks   = 100 // a second, of /proc/PID/stat
	ticksPerTick = time.Second / clockTicks
)

// peer is a server that takes alerts and sends webhooks.
type peer struct {
	name, url string
	pid       int
	authorize func(*http.Request) error // nil where nobody asks
}

// BenchmarkAlerting does the same work with Vigil's control plane and, where it
// is installed, with Alertmanager, and prints a table. "Per core" is work per
// CPU second of the server's process. Vigil has every alert and notification on
// stable storage before it answers or sends; Alertmanager has them in memory.
func BenchmarkAlerting(b *testing.B) {
	for _, work := range []struct {
		name, what string
		do         func(b *testing.B, start func(hook, wait string) peer) string
	}{
		{"accept", "10,000 new alerts, 64 a request", benchAccept},
		{"deliver", "10,000 groups that waited are told", benchDeliver},
		{"storm", "one group an alert, told at once", benchStorm},
		{"latency", "NaN in the trainer to the webhook", nil},
	} {
		b.Run(work.name, func(b *testing.B) {
			for b.Loop() {
				if work.do == nil {
					fmt.Printf("%s\n  %s\n", work.what, benchLatency(b))
					continue
				}
				fmt.Println(work.what)
				for _, start := range []func(*testing.B, string, string) peer{startVigil, startPeer} {
					fmt.Println("  " + work.do(b, func(hook, wait string) peer { return start(b, hook, wait) }))
				}
			}
		})
	}
}

// benchAccept sends alerts that nothing is told of yet, and then again, as
// Prometheus does while they fire.
func benchAccept(b *testing.B, start func(hook, wait string) peer) string {
	b.Helper()
	p := start("http://127.0.0.1:1/", "1h")
	if p.name == "" {
		return ""
	}
	memory, cpu := p.memory(b), p.cpu(b)
	p.post(b, benchAlerts)
	fresh := p.cpu(b) - cpu
	each := (p.memory(b) - memory) / benchAlerts
	cpu = p.cpu(b)
	for range benchRounds {
		p.post(b, benchAlerts)
	}
	again := p.cpu(b) - cpu
	return fmt.Sprintf("%-13s %6.0f new alerts/s a core  %6.0f known alerts/s a core  %6d bytes a group  RSS %d MiB",
		p.name, benchAlerts/fresh.Seconds(), benchAlerts*benchRounds/again.Seconds(), each, p.memory(b)>>20)
}

// benchDeliver has groups told whose alerts have been taken before, so that only
// the telling is measured.
func benchDeliver(b *testing.B, start func(hook, wait string) peer) string {
	b.Helper()
	told := newBell()
	defer told.Close()
	p := start(told.URL, deliverWait.String())
	if p.name == "" {
		return ""
	}
	p.post(b, benchAlerts)
	early := told.count()
	if early > benchAlerts/10 {
		return p.name + " took too long to take the alerts in: nothing is measured"
	}
	cpu := p.cpu(b)
	told.await(b, benchAlerts)
	used := p.cpu(b) - cpu
	return fmt.Sprintf("%-13s %6.0f delivered/s a core", p.name, float64(benchAlerts-early)/used.Seconds())
}

// benchStorm has each alert told by a webhook of its own.
func benchStorm(b *testing.B, start func(hook, wait string) peer) string {
	b.Helper()
	told := newBell()
	defer told.Close()
	p := start(told.URL, "0s")
	if p.name == "" {
		return ""
	}
	cpu, began := p.cpu(b), time.Now()
	p.post(b, benchAlerts)
	accepted := time.Since(began)
	told.await(b, benchAlerts)
	lasted := time.Since(began)
	used := p.cpu(b) - cpu
	return fmt.Sprintf("%-13s %6.0f accepted and delivered/s a core  by the clock: %6.0f accepted/s  %6.0f delivered/s",
		p.name, benchAlerts/used.Seconds(), benchAlerts/accepted.Seconds(), benchAlerts/lasted.Seconds())
}

// benchLatency has a gradient turn NaN in one run after another, in a trainer
// that the agent watches, and measures until the webhook has it; the control
// plane has its default configuration, but that it rolls nothing up: the runs
// break one right after the other.
func benchLatency(b *testing.B) string {
	b.Helper()
	told := newBell()
	defer told.Close()
	s, stop := newBenchSite(b, "alerting: {storm: {after: 0}, receivers: [{name: hook, webhook: {url: '"+told.URL+"'}}]}\n")
	defer stop()
	ctx := b.Context()
	agent, err := s.Agent(ctx, "")
	fatal(b, err)
	defer func() { fatal(b, agent.Stop()) }()
	_, err = s.AwaitNode(ctx)
	fatal(b, err)
	var all []time.Duration
	for n := range benchEvents {
		session, err := trainer.Connect(ctx, trainer.Config{Socket: s.Socket, RunID: fmt.Sprintf("bench-%d", n), WorldSize: 1}, trainer.Deps{})
		fatal(b, err)
		before := told.count()
		began := time.Now()
		session.Report(&commonv1.Event{Body: &commonv1.Event_NonFinite{NonFinite: &commonv1.NonFinite{
			Step: 10, Tensor: "encoder.0.weight", Quantity: commonv1.Quantity_QUANTITY_GRADIENT, NanCount: 1, TensorSize: 64, ParametersIntact: true,
		}}})
		told.await(b, before+1)
		all = append(all, told.at(before).Sub(began))
		fatal(b, session.Close(ctx))
	}
	slices.Sort(all)
	return fmt.Sprintf("%-13s p50 %.1f ms  p99 %.1f ms  worst %.1f ms  of %d", "Vigil",
		millis(all[len(all)/2]), millis(all[len(all)*99/100]), millis(all[len(all)-1]), len(all))
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func fatal(b testing.TB, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// bell is a webhook that notes when it was called.
type bell struct {
	*httptest.Server
	mu    sync.Mutex
	times []time.Time
}

func newBell() *bell {
	t := &bell{}
	t.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		at := time.Now()
		_, _ = io.Copy(io.Discard, r.Body)
		t.mu.Lock()
		defer t.mu.Unlock()
		t.times = append(t.times, at)
	}))
	return t
}

func (t *bell) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.times)
}

func (t *bell) at(n int) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.times[n]
}

func (t *bell) await(b *testing.B, n int) {
	b.Helper()
	for end := time.Now().Add(limit); t.count() < n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			b.Fatalf("%d of %d webhooks came", t.count(), n)
		}
	}
}

// newBenchSite starts a control plane.
func newBenchSite(b *testing.B, config string) (s *site.Site, stop func()) {
	b.Helper()
	s, err := site.Plan(filepath.Join(b.TempDir(), "site"), os.Getenv(binVariable))
	fatal(b, err)
	p, err := s.ControlPlane(b.Context(), config)
	fatal(b, err)
	return s, sync.OnceFunc(func() {
		fatal(b, p.Stop())
		fatal(b, s.Close())
	})
}

func startVigil(b *testing.B, hook, wait string) peer {
	b.Helper()
	s, err := site.Plan(filepath.Join(b.TempDir(), "site"), os.Getenv(binVariable))
	fatal(b, err)
	p, err := s.ControlPlane(b.Context(), "alerting:\n  receivers: [{name: a, webhook: {url: '"+hook+"'}}]\n"+
		"  storm: {after: 0}\n  route: {receiver: a, group_by: [alertname, i], group_wait: "+wait+", group_interval: 1h}\n")
	fatal(b, err)
	b.Cleanup(func() {
		p.Kill()
		_ = s.Close()
	})
	return peer{"Vigil", "http://" + s.API, p.PID(), s.Authorize}
}

// startPeer starts Alertmanager; no name where it is not installed.
func startPeer(b *testing.B, hook, wait string) peer {
	b.Helper()
	program, err := exec.LookPath("prometheus-alertmanager")
	if err != nil {
		return peer{}
	}
	dir := b.TempDir()
	config := "route: {receiver: a, group_by: [alertname, i], group_wait: " + wait + ", group_interval: 1h}\n" +
		"receivers: [{name: a, webhook_configs: [{url: '" + hook + "'}]}]\n"
	fatal(b, os.WriteFile(filepath.Join(dir, "alertmanager.yml"), []byte(config), 0o600))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	fatal(b, err)
	address := l.Addr().String()
	fatal(b, l.Close())
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, "--config.file="+filepath.Join(dir, "alertmanager.yml"),
		"--storage.path="+filepath.Join(dir, "data"), "--web.listen-address="+address, "--cluster.listen-address=")
	fatal(b, cmd.Start())
	b.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
	})
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		response, err := http.Get("http://" + address + "/-/ready")
		if err == nil {
			_ = response.Body.Close()
			return peer{"Alertmanager", "http://" + address, cmd.Process.Pid, nil}
		}
		if time.Now().After(end) {
			b.Fatal("Alertmanager is not ready")
		}
	}
}

// post sends alerts in batches, one after the other.
func (p peer) post(b *testing.B, alerts int) {
	b.Helper()
	ends := time.Now().Add(time.Hour).UTC().Format(time.RFC3339Nano)
	for from := 0; from < alerts; from += benchBatch {
		var batch []map[string]any
		for i := from; i < min(from+benchBatch, alerts); i++ {
			batch = append(batch, map[string]any{
				"labels": map[string]string{
					"alertname": "Slow", "i": strconv.Itoa(i), "severity": "critical", "node": fmt.Sprintf("gpu-%03d", i%100), "job": "node",
				},
				"annotations": map[string]string{"summary": "It is slow"}, "endsAt": ends,
			})
		}
		text, err := json.Marshal(batch)
		fatal(b, err)
		request, err := http.NewRequestWithContext(b.Context(), http.MethodPost, p.url+"/api/v2/alerts", bytes.NewReader(text))
		fatal(b, err)
		request.Header.Set("Content-Type", "application/json")
		if p.authorize != nil {
			fatal(b, p.authorize(request))
		}
		response, err := http.DefaultClient.Do(request)
		fatal(b, err)
		answer, _ := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if response.StatusCode != http.StatusOK {
			b.Fatalf("%s: %s %s", p.name, response.Status, answer)
		}
	}
}

// cpu is the CPU time that the process has used.
func (p peer) cpu(b *testing.B) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	fatal(b, err)
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+2:]))
	user, err := strconv.ParseInt(fields[11], 10, 64)
	fatal(b, err)
	system, err := strconv.ParseInt(fields[12], 10, 64)
	fatal(b, err)
	return time.Duration(user+system) * ticksPerTick
}

// memory is the process' resident set, in bytes.
func (p peer) memory(b *testing.B) int64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.pid))
	fatal(b, err)
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	fatal(b, err)
	return pages * int64(os.Getpagesize())
}
