package elastic

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"time"

	"github.com/elastic/go-elasticsearch/v8/esapi"

	"github.com/vigil-ml/vigil/controlplane/audit/trail"
	"github.com/vigil-ml/vigil/controlplane/export"
	"github.com/vigil-ml/vigil/internal/fault"
)

// readAtOnce is how many audit records are read together.
const readAtOnce = 1000

// ReadAudit writes the copy of the audit log that the stream of audit records is,
// for a verifier. Key names the log; empty: the only one that is there. It fails
// with [fault.NotFound] when there is none, and with [fault.Precondition] when
// there are several and none is named.
func ReadAudit(ctx context.Context, config Config, key string, out io.Writer) error {
	made, err := New(config, export.Deps{Name: "audit copy", Clock: time.Now})
	if err != nil {
		return err
	}
	e := made.(*exporter)
	defer func() { _ = e.Close() }()
	if err := e.refresh(ctx); err != nil {
		return err
	}
	if key == "" {
		if key, err = e.onlyLog(ctx); err != nil {
			return err
		}
	}
	text, err := trail.AppendHeader(nil, trail.Header{Version: 1, Key: key})
	if err != nil {
		return err
	}
	var after any
	for {
		if _, err := out.Write(text); err != nil {
			return err
		}
		found, err := e.auditRecords(ctx, object{"term": object{"vigil.audit.log": key}}, readAtOnce, after)
		if err != nil {
			return err
		}
		if len(found) == 0 && after == nil {
			return fault.New(fault.NotFound, "read audit log from Elasticsearch: there is none of key %s", key)
		}
		text = text[:0]
		for _, record := range found {
			text = append(text, record.line...)
			after = record.sequence
		}
		if len(found) < readAtOnce {
			_, err := out.Write(text)
			return err
		}
	}
}

// refresh has all that was written be found, once for what is read afterwards.
func (e *exporter) refresh(ctx context.Context) error {
	header, err := e.header()
	if err != nil {
		return err
	}
	_, err = e.call(ctx, esapi.IndicesRefreshRequest{Index: []string{e.dataStream(export.StreamAudit)}, Header: header})
	return err
}

// onlyLog gives the key of the log whose records are there.
func (e *exporter) onlyLog(ctx context.Context) (string, error) {
	first, err := e.auditRecords(ctx, object{"match_all": object{}}, 2, nil)
	switch {
	case err != nil:
		return "", err
	case len(first) == 0:
		return "", fault.New(fault.NotFound, "read audit log from Elasticsearch: there is none in %s", e.dataStream(export.StreamAudit))
	case len(first) == 2 && first[0].log != first[1].log:
		return "", fault.New(fault.Precondition, "read audit log from Elasticsearch: there are several, of keys %s and %s; name one", first[0].log, first[1].log)
	}
	return first[0].log, nil
}

// auditRecord is a record as it was exported.
type auditRecord struct {
	log, line string
	sequence  json.Number
}

// auditRecords reads records in the order of their places, behind one.
func (e *exporter) auditRecords(ctx context.Context, query object, most int, after any) ([]auditRecord, error) {
	what := e.dataStream(export.StreamAudit)
	body := object{
		"query": query, "size": most, "sort": []any{object{"vigil.audit.sequence": "asc"}}, "_source": []string{"vigil.audit"},
	}
	if after != nil {
		body["search_after"] = []any{after}
	}
	prepared, header, err := e.prepared(body)
	if err != nil {
		return nil, err
	}
	got, err := e.call(ctx, esapi.SearchRequest{Index: []string{what}, Body: prepared, Header: header})
	switch {
	case err != nil:
		return nil, err
	case got.code == http.StatusNotFound:
		return nil, nil
	case !got.ok():
		return nil, got.failure("read " + what)
	}
	var answer struct {
		Hits struct {
			Hits []struct {
				Source struct {
					Vigil struct {
						Audit struct {
							Log, Line string
							Sequence  json.Number
						}
					}
				} `json:"_source"`
			} `json:"hits"`
		} `json:"hits"`
	}
	decoder := json.NewDecoder(bytes.NewReader(got.body))
	if err := decoder.Decode(&answer); err != nil {
		return nil, fault.New(fault.Unavailable, "read %s: %w", what, err)
	}
	var all []auditRecord
	for _, hit := range answer.Hits.Hits {
		a := hit.Source.Vigil.Audit
		all = append(all, auditRecord{log: a.Log, line: a.Line, sequence: a.Sequence})
	}
	return all, nil
}
