package elastic

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/elastic/go-elasticsearch/v8/esapi"

	"github.com/vigil-ml/vigil/controlplane/export"
	"github.com/vigil-ml/vigil/internal/fault"
)

const (
	// maxIDBytes is the longest id that Elasticsearch takes.
	maxIDBytes = 512
	// askAtOnce is how many ids are looked for together.
	askAtOnce = 1000
)

// item is one document as lines of a bulk request.
type item struct {
	index int // of the document and its verdict
	lines []byte
}

// place is where a document is known by its id.
type place struct{ stream, id string }

// idOf gives the id under which a document is created.
func idOf(id string) string {
	if len(id) <= maxIDBytes {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return "sha256-" + hex.EncodeToString(sum[:])
}

func (e *exporter) item(index int, d export.Document) (item, error) {
	action, err := json.Marshal(map[string]any{"create": map[string]string{"_index": e.dataStream(d.Stream), "_id": idOf(d.ID)}})
	if err != nil {
		return item{}, err
	}
	source, err := json.Marshal(d.Fields)
	if err != nil {
		return item{}, err
	}
	lines := append(append(action, '\n'), source...)
	return item{index: index, lines: append(lines, '\n')}, nil
}

// fitting gives how many items one request holds; at least one.
func (e *exporter) fitting(items []item) int {
	size := 0
	for i, it := range items {
		if size += len(it.lines); size > e.config.MaxRequestBytes && i > 0 {
			return i
		}
	}
	return len(items)
}

// bulk sends items in one request and notes their verdicts. What is too large
// for the server is sent in halves, and so is what it cannot read: then one
// document is to blame.
func (e *exporter) bulk(ctx context.Context, items []item, verdicts []export.Verdict) error {
	header, err := e.header()
	if err != nil {
		return err
	}
	var body bytes.Buffer
	for _, it := range items {
		body.Write(it.lines)
	}
	got, err := e.call(ctx, esapi.BulkRequest{Body: &body, Header: header, FilterPath: []string{
		"errors", "items.*._id", "items.*.status", "items.*.error",
	}})
	switch {
	case err != nil:
		return err
	case got.ok():
		return read(got.body, items, verdicts)
	case got.code != http.StatusRequestEntityTooLarge && got.code != http.StatusBadRequest:
		return got.failure("create documents")
	case len(items) == 1:
		verdicts[items[0].index] = export.Verdict{Outcome: export.Refused, Reason: got.failure("create a document").Error()}
		return nil
	}
	half := len(items) / 2
	if err := e.bulk(ctx, items[:half], verdicts); err != nil {
		return err
	}
	return e.bulk(ctx, items[half:], verdicts)
}

// read notes what became of each item.
func read(body []byte, items []item, verdicts []export.Verdict) error {
	var answer struct {
		Items []map[string]struct {
			Status int   `json:"status"`
			Error  cause `json:"error"`
		} `json:"items"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fault.New(fault.Unavailable, "read Elasticsearch's answer to documents: %w", err)
	}
	if len(answer.Items) != len(items) {
		return fault.New(fault.Unavailable, "read Elasticsearch's answer to documents: %d items for %d documents", len(answer.Items), len(items))
	}
	for i, result := range answer.Items {
		created, ok := result["create"]
		if !ok {
			return fault.New(fault.Unavailable, "read Elasticsearch's answer to documents: its item %d is of no create", i)
		}
		verdicts[items[i].index] = verdict(created.Status, created.Error)
	}
	return nil
}

// verdict classifies an item's status. Only 400, what cannot be mapped, is the
// document's own fault: blocks, full queues, missing rights and templates can be
// mended while it waits.
func verdict(status int, why cause) export.Verdict {
	switch {
	case status >= 200 && status < 300:
		return export.Verdict{Outcome: export.Taken}
	case status == http.StatusConflict:
		return export.Verdict{Outcome: export.Repeated}
	case status == http.StatusBadRequest:
		return export.Verdict{Outcome: export.Refused, Reason: why.String()}
	default:
		return export.Verdict{Outcome: export.Deferred, Reason: fmt.Sprintf("%d: %s", status, why)}
	}
}

// there finds which of the uncertain documents their data streams have.
func (e *exporter) there(ctx context.Context, documents []export.Document) (map[place]bool, error) {
	ids := map[string][]string{}
	for _, d := range documents {
		if d.Uncertain {
			ids[d.Stream] = append(ids[d.Stream], idOf(d.ID))
		}
	}
	found := map[place]bool{}
	for stream, all := range ids {
		header, err := e.header()
		if err != nil {
			return nil, err
		}
		// A search sees what the last refresh has.
		got, err := e.call(ctx, esapi.IndicesRefreshRequest{Index: []string{e.dataStream(stream)}, Header: header})
		if err != nil {
			return nil, err
		}
		if got.code == http.StatusNotFound {
			continue // nothing was ever created
		}
		if !got.ok() {
			return nil, got.failure("refresh " + e.dataStream(stream))
		}
		for len(all) > 0 {
			n := min(len(all), askAtOnce)
			if err := e.find(ctx, stream, all[:n], header, found); err != nil {
				return nil, err
			}
			all = all[n:]
		}
	}
	return found, nil
}

func (e *exporter) find(ctx context.Context, stream string, ids []string, header http.Header, found map[place]bool) error {
	query, err := json.Marshal(map[string]any{
		"query": map[string]any{"ids": map[string]any{"values": ids}}, "_source": false, "size": len(ids), "sort": []string{"_doc"},
	})
	if err != nil {
		return err
	}
	size := len(ids)
	got, err := e.call(ctx, esapi.SearchRequest{
		Index: []string{e.dataStream(stream)}, Body: bytes.NewReader(query), Size: &size, Header: header,
	})
	if err != nil {
		return err
	}
	if !got.ok() {
		return got.failure("look for documents in " + e.dataStream(stream))
	}
	var answer struct {
		Shards struct {
			Failed int `json:"failed"`
		} `json:"_shards"`
		Hits struct {
			Hits []struct {
				ID string `json:"_id"`
			} `json:"hits"`
		} `json:"hits"`
	}
	if err := json.Unmarshal(got.body, &answer); err != nil {
		return fault.New(fault.Unavailable, "read what %s has: %w", e.dataStream(stream), err)
	}
	if answer.Shards.Failed > 0 {
		return fault.New(fault.Unavailable, "look for documents in %s: %d shards did not answer", e.dataStream(stream), answer.Shards.Failed)
	}
	for _, hit := range answer.Hits.Hits {
		found[place{stream, hit.ID}] = true
	}
	return nil
}
