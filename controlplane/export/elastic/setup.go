package elastic

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/elastic/go-elasticsearch/v8/esapi"
)

// templatePriority is above that of the templates for logs-*-* that come with
// Elasticsearch, which is 100.
const templatePriority = 250

type object = map[string]any

// setUp writes policy and template once; after an error, again the next time.
func (e *exporter) setUp(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ready || !e.config.SetUp {
		return nil
	}
	lifecycle, err := e.putPolicy(ctx)
	if err != nil {
		return err
	}
	if err := e.putTemplate(ctx, lifecycle); err != nil {
		return err
	}
	e.ready = true
	return nil
}

// name is that of the template and the policy.
func (e *exporter) name() string { return "vigil-" + e.config.Namespace }

// putPolicy writes the lifecycle policy. A server without index lifecycle
// management, such as OpenSearch, gets none.
func (e *exporter) putPolicy(ctx context.Context) (there bool, err error) {
	phases := object{"hot": object{"actions": object{"rollover": object{
		"max_age": hours(e.config.RolloverAge), "max_primary_shard_size": fmt.Sprintf("%db", e.config.RolloverBytes),
	}}}}
	if e.config.Retention > 0 {
		phases["delete"] = object{"min_age": hours(e.config.Retention), "actions": object{"delete": object{}}}
	}
	body, header, err := e.prepared(object{"policy": object{"phases": phases, "_meta": object{"managed_by": "vigil"}}})
	if err != nil {
		return false, err
	}
	got, err := e.call(ctx, esapi.ILMPutLifecycleRequest{Policy: e.name(), Body: body, Header: header})
	switch {
	case err != nil:
		return false, err
	case got.ok():
		return true, nil
	case got.code < 500 && strings.Contains(string(got.body), "no handler found for uri"):
		e.deps.Log.Warn("Elasticsearch has no index lifecycle management: nothing rolls over or deletes old documents", "exporter", e.deps.Name)
		return false, nil
	default:
		return false, got.failure("write lifecycle policy " + e.name())
	}
}

// hours is a duration as Elasticsearch reads it.
func hours(d time.Duration) string { return fmt.Sprintf("%ds", int64(d.Seconds())) }

func (e *exporter) putTemplate(ctx context.Context, lifecycle bool) error {
	settings := object{}
	if lifecycle {
		settings["index.lifecycle.name"] = e.name()
	}
	if e.config.Replicas >= 0 {
		settings["index.number_of_replicas"] = e.config.Replicas
	}
	body, header, err := e.prepared(object{
		"index_patterns": []string{"logs-vigil.*-" + e.config.Namespace},
		"data_stream":    object{},
		"priority":       templatePriority,
		"template":       object{"settings": settings, "mappings": mappings()},
		"_meta":          object{"managed_by": "vigil", "version": e.deps.Version},
	})
	if err != nil {
		return err
	}
	got, err := e.call(ctx, esapi.IndicesPutIndexTemplateRequest{Name: e.name(), Body: body, Header: header})
	if err != nil {
		return err
	}
	if !got.ok() {
		return got.failure("write index template " + e.name())
	}
	return nil
}

func (e *exporter) prepared(body object) (*bytes.Reader, http.Header, error) {
	header, err := e.header()
	if err != nil {
		return nil, nil, err
	}
	text, err := json.Marshal(body)
	return bytes.NewReader(text), header, err
}

// mappings name every field that can be searched. What an event carries is one
// flattened field: names that trainers make up, of tasks and layers, would
// otherwise each become a field of the index, and NaN would refuse the document.
func mappings() object {
	keyword := object{"type": "keyword", "ignore_above": 1024}
	text := object{"type": "text"}
	long, double := object{"type": "long"}, object{"type": "double"}
	of := func(properties object) object { return object{"properties": properties} }
	return object{
		"dynamic": false,
		"properties": object{
			"@timestamp": object{"type": "date_nanos"},
			"message":    text,
			"ecs":        of(object{"version": keyword}),
			"service":    of(object{"name": keyword, "version": keyword, "node": of(object{"name": keyword})}),
			"user":       of(object{"id": keyword}),
			"host":       of(object{"name": keyword}),
			"trace":      of(object{"id": keyword}),
			"span":       of(object{"id": keyword}),
			"log":        of(object{"logger": keyword, "level": keyword}),
			"error":      of(object{"type": keyword, "message": text, "stack_trace": text}),
			"event": of(object{
				"id": keyword, "kind": keyword, "dataset": keyword, "module": keyword, "action": keyword, "reason": keyword,
				"outcome": keyword, "sequence": long,
				"created": object{"type": "date_nanos"}, "original": object{"type": "keyword", "index": false, "doc_values": false},
			}),
			"vigil": of(object{
				"run": keyword, "node": keyword, "incident": keyword, "state": keyword,
				"attempt": long, "rank": long, "step": long, "onset_step": long,
				"loss": double, "gradient_norm": double, "step_seconds": double,
				"body": object{"type": "flattened", "ignore_above": 8000},
				"audit": of(object{
					"log": keyword, "sequence": long, "line": object{"type": "keyword", "index": false, "doc_values": false},
				}),
			}),
		},
	}
}
