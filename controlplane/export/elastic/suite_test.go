package elastic

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/controlplane/export"
	"github.com/vigil-ml/vigil/internal/testkit"
)

// server is an Elasticsearch, real or not. Its largest request is 1 MiB.
type server struct {
	url string
	t   *testing.T
}

// ask sends a request of the test's own.
func (s server) ask(method, path, body string) (int, map[string]any) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	var answer map[string]any
	_ = json.Unmarshal(text, &answer)
	return response.StatusCode, answer
}

// count gives how many documents a data stream has.
func (s server) count(stream string) int {
	s.t.Helper()
	s.ask(http.MethodPost, "/"+stream+"/_refresh", "")
	code, answer := s.ask(http.MethodGet, "/"+stream+"/_count", "")
	if code == http.StatusNotFound {
		return 0
	}
	if code != http.StatusOK {
		s.t.Fatalf("count documents of %s: %d %v", stream, code, answer)
	}
	return int(answer["count"].(float64))
}

// opened makes an exporter with a namespace of its own.
func (s server) opened(namespace string, change func(*Config)) export.Exporter {
	s.t.Helper()
	config := Defaults()
	config.Addresses, config.Namespace, config.Replicas = []string{s.url}, namespace, 0
	if change != nil {
		change(&config)
	}
	made, err := New(config, export.Deps{Name: "search", Version: "test", Log: testkit.Logger(s.t), Clock: time.Now})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = made.Close() })
	return made
}

func documents(ids ...string) []export.Document {
	at := time.Date(2026, 3, 4, 5, 6, 7, 89, time.UTC)
	var all []export.Document
	for _, id := range ids {
		all = append(all, export.Document{
			Stream: export.StreamEvents, ID: id, Time: at, Received: at,
			Fields: map[string]any{
				"@timestamp": at.Format(time.RFC3339Nano), "message": "a step",
				"vigil": map[string]any{"run": "r", "step": 7, "body": map[string]any{"loss": "NaN", "task_losses": map[string]any{"a.b": 1.5}}},
			},
		})
	}
	return all
}

// exported sends documents and gives the verdicts' outcomes.
func exported(t *testing.T, e export.Exporter, all []export.Document) []string {
	t.Helper()
	verdicts, err := e.Export(context.WithoutCancel(t.Context()), all)
	if err != nil {
		t.Fatal(err)
	}
	var outcomes []string
	for _, v := range verdicts {
		outcomes = append(outcomes, v.Outcome.String())
	}
	return outcomes
}

func same(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// suite is what an Elasticsearch does, whichever it is.
func suite(t *testing.T, start func(*testing.T) server) {
	tests := map[string]func(*testing.T, server){
		"a document is there once":        testOnce,
		"an id is known over a rollover":  testRollover,
		"what cannot be mapped":           testUnmappable,
		"what is too large":               testTooLarge,
		"a block is waited for":           testBlocked,
		"long ids and nothing but ids":    testIDs,
		"a thousand ids are asked for":    testManyUncertain,
		"numbers and names can be sought": testSearch,
		"logs and the audit log":          testLogsAndAudit,
		"the audit log can be read again": testReadAudit,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, start(t)) })
	}
}

func testOnce(t *testing.T, s server) {
	e := s.opened("once", nil)
	same(t, "the first time", []string{"taken", "taken"}, exported(t, e, documents("a", "b")))
	same(t, "again, with one more", []string{"repeated", "taken"}, exported(t, e, documents("a", "c")))
	same(t, "documents", 3, s.count("logs-vigil.events-once"))
}

func testRollover(t *testing.T, s server) {
	e := s.opened("roll", nil)
	exported(t, e, documents("a"))
	if code, answer := s.ask(http.MethodPost, "/logs-vigil.events-roll/_rollover", ""); code != http.StatusOK {
		t.Fatalf("roll over: %d %v", code, answer)
	}
	exported(t, e, documents("b"))
	uncertain := documents("a", "b", "c")
	for i := range uncertain {
		uncertain[i].Uncertain = true
	}
	same(t, "uncertain ones", []string{"repeated", "repeated", "taken"}, exported(t, e, uncertain))
	same(t, "documents", 3, s.count("logs-vigil.events-roll"))
}

func testUnmappable(t *testing.T, s server) {
	e := s.opened("map", nil)
	all := documents("a", "b", "c")
	all[1].Fields["vigil"] = map[string]any{"step": "seven"}
	delete(all[2].Fields, "@timestamp")
	verdicts, err := e.Export(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	if verdicts[0].Outcome != export.Taken || verdicts[1].Outcome != export.Refused || verdicts[2].Outcome != export.Refused {
		t.Errorf("verdicts %v", verdicts)
	}
	if !strings.Contains(verdicts[1].Reason, "vigil.step") || !strings.Contains(verdicts[2].Reason, "@timestamp") {
		t.Errorf("reasons do not name the fields: %v", verdicts)
	}
	same(t, "documents", 1, s.count("logs-vigil.events-map"))
}

func testTooLarge(t *testing.T, s server) {
	e := s.opened("large", func(c *Config) { c.MaxRequestBytes, c.Compress = 64<<20, false })
	all := documents("a", "b", "c", "d", "e")
	for i := range all {
		size := 400 << 10
		if i == 2 {
			size = 2 << 20
		}
		all[i].Fields["message"] = strings.Repeat("x ", size/2)
	}
	same(t, "verdicts", []string{"taken", "taken", "refused", "taken", "taken"}, exported(t, e, all))
	same(t, "documents", 4, s.count("logs-vigil.events-large"))
}

func testBlocked(t *testing.T, s server) {
	e := s.opened("block", nil)
	exported(t, e, documents("a"))
	set := func(blocked bool) {
		code, answer := s.ask(http.MethodPut, "/logs-vigil.events-block/_settings", fmt.Sprintf(`{"index.blocks.write": %v}`, blocked))
		if code != http.StatusOK {
			t.Fatalf("block: %d %v", code, answer)
		}
	}
	set(true)
	same(t, "while it is blocked", []string{"deferred"}, exported(t, e, documents("b")))
	set(false)
	same(t, "afterwards", []string{"taken"}, exported(t, e, documents("b")))
}

func testIDs(t *testing.T, s server) {
	e := s.opened("ids", nil)
	long := strings.Repeat("i", 600)
	same(t, "a long id", []string{"taken"}, exported(t, e, documents(long)))
	same(t, "and again", []string{"repeated"}, exported(t, e, documents(long)))
	odd := documents("ü/ \"x\"\n")
	odd[0].Uncertain = true
	same(t, "an odd id", []string{"taken"}, exported(t, e, odd))
	same(t, "and again", []string{"repeated"}, exported(t, e, odd))
}

func testManyUncertain(t *testing.T, s server) {
	e := s.opened("many", nil)
	var ids []string
	for i := range 2500 {
		ids = append(ids, fmt.Sprintf("id-%d", i))
	}
	exported(t, e, documents(ids...))
	all := documents(ids...)
	for i := range all {
		all[i].Uncertain = true
	}
	for i, outcome := range exported(t, e, all) {
		if outcome != "repeated" {
			t.Fatalf("document %d was %s", i, outcome)
		}
	}
	same(t, "documents", 2500, s.count("logs-vigil.events-many"))
}

func testSearch(t *testing.T, s server) {
	e := s.opened("search", nil)
	exported(t, e, documents("a"))
	s.ask(http.MethodPost, "/logs-vigil.events-search/_refresh", "")
	for query, want := range map[string]bool{
		`{"vigil.step": 7}`: true, `{"vigil.step": 8}`: false, `{"vigil.run": "r"}`: true,
		`{"vigil.body.loss": "NaN"}`: true, `{"vigil.body.task_losses.a.b": "1.5"}`: true, `{"vigil.body.loss": "1"}`: false,
	} {
		code, answer := s.ask(http.MethodPost, "/logs-vigil.events-search/_search", `{"query": {"term": `+query+`}}`)
		if found := strings.Contains(fmt.Sprint(answer), "_id:a"); code != http.StatusOK || found != want {
			t.Errorf("search %s: %d, found %v", query, code, found)
		}
	}
}
