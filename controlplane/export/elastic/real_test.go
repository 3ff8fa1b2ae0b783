package elastic

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/controlplane/export/elastic/elastictest"
)

// TestRealServer runs the suite against Elasticsearch itself.
func TestRealServer(t *testing.T) {
	real := elastictest.StartReal(t)
	suite(t, func(t *testing.T) server { return server{url: real.URL(), t: t} })
	t.Run("the template is in force", func(t *testing.T) { testTemplate(t, server{url: real.URL(), t: t}) })
}

// testTemplate holds that the index behind a data stream has the template's
// mapping, also the next one.
func testTemplate(t *testing.T, s server) {
	e := s.opened("template", nil)
	exported(t, e, documents("a"))
	if code, answer := s.ask(http.MethodPost, "/logs-vigil.events-template/_rollover", ""); code != http.StatusOK {
		t.Fatalf("roll over: %d %v", code, answer)
	}
	exported(t, e, documents("b"))
	code, answer := s.ask(http.MethodGet, "/logs-vigil.events-template/_mapping", "")
	if code != http.StatusOK || len(answer) != 2 {
		t.Fatalf("mapping: %d %v", code, answer)
	}
	for index, of := range answer {
		mapping := of.(map[string]any)["mappings"].(map[string]any)
		fields := mapping["properties"].(map[string]any)
		got := fmt.Sprint(mapping["dynamic"], fields["@timestamp"].(map[string]any)["type"], fields["vigil"].(map[string]any)["properties"].(map[string]any)["body"].(map[string]any)["type"])
		same(t, "mapping of "+index, "falsedate_nanosflattened", got)
	}
}

// policy has Elasticsearch's own classes read a request that puts a policy: what
// they understood, and what they said when they did not.
func policy(t *testing.T, body []byte) (understood map[string]any, said string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "java", "-cp",
		filepath.Join(elastictest.Home(), "lib", "*")+":"+filepath.Join(elastictest.Home(), "modules", "x-pack-core", "*"), "testdata/Policy.java")
	command.Stdin = bytes.NewReader(body)
	var wrong bytes.Buffer
	command.Stderr = &wrong
	out, err := command.Output()
	if err != nil {
		return nil, wrong.String()
	}
	if err := json.Unmarshal(out, &understood); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return understood, ""
}

// TestRealPolicy has the classes with which Elasticsearch reads lifecycle policies
// read what is put. The minimal distribution has them, and nothing that carries
// policies out.
func TestRealPolicy(t *testing.T) {
	if elastictest.Home() == "" {
		t.Skip("make test-elasticsearch has Elasticsearch's own classes read the policy")
	}
	put := func(retention time.Duration) []byte {
		fake := elastictest.New(t)
		exported(t, server{url: fake.URL(), t: t}.opened("policy", func(c *Config) { c.Retention = retention }), documents("a"))
		return fake.PolicyBody("vigil-policy")
	}
	roll := map[string]any{"min_age": "0ms", "actions": map[string]any{"rollover": map[string]any{"max_age": "2592000s", "max_primary_shard_size": "53687091200b"}}}
	remove := map[string]any{"min_age": "7776000s", "actions": map[string]any{"delete": map[string]any{"delete_searchable_snapshot": true}}}
	for retention, want := range map[time.Duration]map[string]any{90 * 24 * time.Hour: {"hot": roll, "delete": remove}, 0: {"hot": roll}} {
		got, said := policy(t, put(retention))
		if said != "" {
			t.Errorf("with a retention of %s: %s", retention, said)
		}
		same(t, "phases with a retention of "+retention.String(), any(want), got["phases"])
	}
	for word, other := range map[string]string{`"rollover"`: `"roll"`, "2592000s": "soon", `"hot"`: `"scorching"`} {
		if got, said := policy(t, bytes.Replace(put(0), []byte(word), []byte(other), 1)); said == "" {
			t.Errorf("with %s instead of %s they understood %v", other, word, got)
		}
	}
}
