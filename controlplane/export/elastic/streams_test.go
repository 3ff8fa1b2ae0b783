package elastic

import (
	"bytes"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vigil-ml/vigil/controlplane/export"
	"github.com/vigil-ml/vigil/controlplane/export/elastic/elastictest"
	"github.com/vigil-ml/vigil/internal/fault"
)

// testLogsAndAudit holds that lines of a log and records of the audit log can be
// sought by the names that the Elastic Common Schema has, and that the line of
// the audit log's copy comes back as it was, however it is written.
func testLogsAndAudit(t *testing.T, s server) {
	e := s.opened("streams", nil)
	logs, audit := documents("l-0", "l-1"), documents("vigil/audit/ab+12+/=/7")
	for i := range logs {
		logs[i].Stream = export.StreamLogs
		logs[i].Fields["log"] = map[string]any{"level": "error", "logger": "train.data"}
		logs[i].Fields["service"] = map[string]any{"name": "vigil-trainer", "version": "1", "node": map[string]any{"name": "n1"}}
		logs[i].Fields["error"] = map[string]any{"type": "OSError", "message": "no space", "stack_trace": "at 1\nat 2"}
		logs[i].Fields["vigil"] = map[string]any{"run": "r", "rank": 3, "body": map[string]any{"worker": "7", "thread.name": "main"}}
	}
	line := `{"record":{"seq":7,"action":"a","x":"1e2"},"signature":"AbC="}` + "\n"
	audit[0].Stream = export.StreamAudit
	audit[0].Fields["event"] = map[string]any{"action": "IncidentService/ResolveIncident", "outcome": "success", "sequence": 7}
	audit[0].Fields["user"] = map[string]any{"id": "token/ci"}
	audit[0].Fields["vigil"] = map[string]any{"audit": map[string]any{"log": "vigil/audit/ab", "sequence": 7, "line": line}}
	same(t, "the first time", []string{"taken", "taken", "taken"}, exported(t, e, append(logs, audit...)))
	same(t, "again", []string{"repeated"}, exported(t, e, audit))
	same(t, "lines", 2, s.count("logs-vigil.logs-streams"))
	same(t, "records", 1, s.count("logs-vigil.audit-streams"))

	for _, stream := range []string{"logs", "audit"} {
		s.ask(http.MethodPost, "/logs-vigil."+stream+"-streams/_refresh", "")
	}
	find := func(stream, query string) []any {
		t.Helper()
		code, answer := s.ask(http.MethodPost, "/logs-vigil."+stream+"-streams/_search", `{"query":`+query+`}`)
		if code != http.StatusOK {
			t.Fatalf("search: %d %v", code, answer)
		}
		return answer["hits"].(map[string]any)["hits"].([]any)
	}
	for _, query := range []string{
		`{"term":{"log.level":"error"}}`, `{"term":{"error.type":"OSError"}}`, `{"term":{"vigil.rank":3}}`,
		`{"term":{"vigil.body.worker":"7"}}`, `{"term":{"service.node.name":"n1"}}`,
	} {
		same(t, query, 2, len(find("logs", query)))
	}
	for _, query := range []string{`{"term":{"user.id":"token/ci"}}`, `{"term":{"event.outcome":"success"}}`, `{"term":{"vigil.audit.sequence":7}}`} {
		found := find("audit", query)
		if len(found) != 1 {
			t.Errorf("%s finds %d records", query, len(found))
			continue
		}
		source := found[0].(map[string]any)["_source"].(map[string]any)
		same(t, "the line", line, source["vigil"].(map[string]any)["audit"].(map[string]any)["line"].(string))
	}
}

// testReadAudit holds that all lines come back, in the order of their places, and
// that of two logs one must be named.
func testReadAudit(t *testing.T, s server) {
	config := Defaults()
	config.Addresses, config.Namespace = []string{s.url}, "copy"
	e := s.opened("copy", nil)
	put := func(log string, n int) {
		t.Helper()
		var ids []string
		for i := range n {
			ids = append(ids, fmt.Sprintf("%s/%d", log, i))
		}
		all := documents(ids...)
		for i := range all {
			all[i].Stream = export.StreamAudit
			all[i].Fields["vigil"] = map[string]any{"audit": map[string]any{"log": log, "sequence": i, "line": fmt.Sprintf("line %d\n", i)}}
		}
		slices.Reverse(all)
		exported(t, e, all)
	}
	const many = 2*readAtOnce + 100
	put("a+1", many)
	var out bytes.Buffer
	if err := ReadAudit(t.Context(), config, "", &out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	same(t, "lines", many+1, len(lines))
	for i, line := range lines[1:] {
		if line != fmt.Sprintf("line %d", i) {
			t.Fatalf("line %d is %q", i, line)
		}
	}
	put("b+2", 1)
	if err := ReadAudit(t.Context(), config, "", &out); !fault.Is(err, fault.Precondition) {
		t.Errorf("two logs, none named: %v", err)
	}
	out.Reset()
	if err := ReadAudit(t.Context(), config, "b+2", &out); err != nil || !strings.HasSuffix(out.String(), "\nline 0\n") {
		t.Errorf("the second: %q, %v", out.String(), err)
	}
	if err := ReadAudit(t.Context(), config, "c+3", &out); !fault.Is(err, fault.NotFound) {
		t.Errorf("one that is not there: %v", err)
	}
}

// TestReadAuditRefreshesOnce: however many pages are read.
func TestReadAuditRefreshesOnce(t *testing.T) {
	fake := elastictest.New(t)
	var refreshes, searches atomic.Int64
	fake.Fail(func(r *http.Request) (code int, after bool) {
		switch path.Base(r.URL.Path) {
		case "_refresh":
			refreshes.Add(1)
		case "_search":
			searches.Add(1)
		}
		return 0, false
	})
	testReadAudit(t, server{fake.URL(), t})
	// It is read four times there.
	if refreshes.Load() != 4 || searches.Load() < 6 {
		t.Errorf("%d refreshes and %d searches", refreshes.Load(), searches.Load())
	}
}
