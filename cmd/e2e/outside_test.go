package e2e

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	collectorlogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/controlplane/export"
	"github.com/vigil-ml/vigil/controlplane/export/elastic/elastictest"
	"github.com/vigil-ml/vigil/controlplane/export/otlp/otlptest"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// searcher is an Elasticsearch that can be away: the fake, or the real one, which
// is killed.
type searcher struct {
	url      string
	ids      func(stream string) map[string]int
	away     func()
	back     func()
	rollover func(stream string)
}

func newSearcher(t *testing.T) searcher {
	t.Helper()
	roll := func(url string) func(string) {
		return func(stream string) {
			response, err := http.Post(url+"/"+stream+"/_rollover", "application/json", nil)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if response.StatusCode != http.StatusOK {
				t.Fatalf("roll %s over: %s", stream, response.Status)
			}
		}
	}
	if elastictest.Home() != "" {
		real := elastictest.StartReal(t)
		return searcher{real.URL(), real.IDs, real.Kill, real.Run, roll(real.URL())}
	}
	fake := elastictest.New(t)
	return searcher{fake.URL(), fake.IDs, func() { fake.Fail(func(*http.Request) (int, bool) { return 503, false }) }, func() { fake.Fail(nil) }, roll(fake.URL())}
}

// whole trains a run to its end.
func (h *house) whole(run string, args ...string) {
	h.t.Helper()
	if err := h.train(run, args...).Wait(h.ctx); err != nil {
		h.t.Fatal(err)
	}
	h.await(run, succeeded)
}

// outsideStreams are those that both kinds of exporters take.
func outsideStreams() []string {
	return []string{export.StreamEvents, export.StreamFindings, export.StreamIncidents, export.StreamAudit, export.StreamLogs}
}

// streamName is that of a stream's data stream.
func streamName(stream string) string { return "logs-vigil." + stream + "-default" }

// outside gives how often each id is at both, by stream.
func outside(search searcher, received *otlptest.Receiver) (ids, uids map[string]map[string]int) {
	ids, uids = map[string]map[string]int{}, map[string]map[string]int{}
	for _, stream := range outsideStreams() {
		ids[stream], uids[stream] = search.ids(streamName(stream)), map[string]int{}
	}
	for _, l := range received.Logs() {
		stream := cmp.Or(strings.TrimPrefix(l.Record.GetEventName(), "vigil."), export.StreamLogs)
		uids[stream][l.UID]++
	}
	return ids, uids
}

// expected gives what is to be outside of runs: ids of events, of lines of their
// logs, and of findings.
func (h *house) expected(runs ...string) map[string][]string {
	h.t.Helper()
	all := map[string][]string{}
	for _, run := range runs {
		for _, event := range h.events(run) {
			said := event.GetTelemetry()
			if said == nil {
				all[export.StreamEvents] = append(all[export.StreamEvents], event.EventId)
			}
			for n := range h.lines(said) {
				all[export.StreamLogs] = append(all[export.StreamLogs], fmt.Sprintf("%s-%d", event.EventId, n))
			}
		}
		for _, f := range h.live(run) {
			all[export.StreamFindings] = append(all[export.StreamFindings], f.ID)
		}
	}
	return all
}

// lines is how many lines of a log a program handed on in one event.
func (h *house) lines(said *commonv1.Telemetry) (n int) {
	h.t.Helper()
	if said.GetSignal() != commonv1.Signal_SIGNAL_LOGS {
		return 0
	}
	in := &collectorlogs.ExportLogsServiceRequest{}
	if err := proto.Unmarshal(said.Otlp, in); err != nil {
		h.t.Fatal(err)
	}
	for _, of := range in.ResourceLogs {
		for _, scope := range of.ScopeLogs {
			n += len(scope.LogRecords)
		}
	}
	return n
}

func (h *house) failing() (n int) {
	h.t.Helper()
	out, err := controlv1.NewExportServiceClient(h.Conn()).ListExporters(h.ctx, &controlv1.ListExportersRequest{})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, e := range out.Exporters {
		if e.Error != "" {
			n++
		}
		if e.DeadLetters != 0 {
			h.t.Errorf("exporter %s has %d dead letters", e.Name, e.DeadLetters)
		}
	}
	return n
}

// TestAllIsOutsideOnceAfterAnOutage has Elasticsearch killed and the receiver of
// OTLP gone while runs are exported, another run struck and told of meanwhile, the
// control plane killed and started again, a third run trained, and Elasticsearch
// killed once more while it catches up, after which its index rolls over. Then
// each document of all three runs is at both, once, and both have the same.
// `make test-elasticsearch` does it with an Elasticsearch itself.
func TestAllIsOutsideOnceAfterAnOutage(t *testing.T) {
	search, received := newSearcher(t), otlptest.New(t)
	hook := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(hook.Close)
	h := openFor(t, 4*limit, fmt.Sprintf("exports:\n- {name: search, kind: elastic, settings: {addresses: [%q]}}\n"+
		"- {name: otel, kind: otlp, streams: [events, findings, incidents, audit, logs], settings: {endpoint: %q, plaintext: true}}\n"+
		"alerting: {receivers: [{name: hook, webhook: {url: %q}}]}\n", search.url, received.Address(), hook.URL), "forward: {logs: true}\n")
	h.whole("before", "--steps", "300")
	events := func() int { return len(search.ids(streamName(export.StreamEvents))) }
	h.until("the first documents", func() bool { return events() > 300 && len(received.Logs()) > 300 })
	had := events()
	search.away()
	var refused atomic.Int64
	received.Fail(func(int, string) (bool, error) {
		refused.Add(1)
		return false, status.Error(codes.Unavailable, "away")
	})
	h.whole("during", "--steps", "1500", "--inject", "nan-grad@700")
	h.until("a refusal", func() bool { return refused.Load() > 0 }) // nothing is under way that might be taken
	received.Stop()
	h.controlPlane.Kill()
	h.startControlPlane()
	h.whole("later", "--steps", "300")
	h.until("both to be called failing", func() bool { return h.failing() == 2 })
	want := h.expected("before", "during", "later")

	search.back()
	h.until("it to catch up", func() bool { return events() > had })
	search.away()
	search.back()
	search.rollover(streamName(export.StreamEvents))
	received.Fail(nil)
	received.Start()
	var ids, uids map[string]map[string]int
	h.until("both to have the same", func() bool {
		ids, uids = outside(search, received)
		time.Sleep(50 * time.Millisecond) // each look reads it all
		return h.failing() == 0 && len(ids[export.StreamEvents]) >= len(want[export.StreamEvents]) && reflect.DeepEqual(keys(ids), keys(uids))
	})
	for stream, names := range want {
		for _, id := range names {
			if ids[stream][id] != 1 || uids[stream][id] != 1 {
				t.Errorf("%s %s is %d times at Elasticsearch and came %d times by OTLP", stream, id, ids[stream][id], uids[stream][id])
			}
		}
		t.Logf("%s of the three runs: %d, each once at both", stream, len(names))
	}
	for _, of := range []map[string]map[string]int{ids, uids} {
		for stream, all := range of {
			for id, n := range all {
				if n != 1 {
					t.Errorf("%s %s is there %d times", stream, id, n)
				}
			}
		}
	}
	if len(want[export.StreamFindings]) == 0 || len(ids[export.StreamIncidents]) < 2 || len(ids[export.StreamAudit]) == 0 || len(want[export.StreamLogs]) == 0 {
		t.Errorf("there is too little to tell: %v", counts(ids))
	}
	t.Logf("documents at both: %v", counts(ids))
}

// keys gives the ids of each stream, sorted.
func keys(ids map[string]map[string]int) map[string][]string {
	all := map[string][]string{}
	for stream, of := range ids {
		all[stream] = slices.Sorted(maps.Keys(of))
	}
	return all
}

func counts(ids map[string]map[string]int) map[string]int {
	n := map[string]int{}
	for stream, of := range ids {
		n[stream] = len(of)
	}
	return n
}
