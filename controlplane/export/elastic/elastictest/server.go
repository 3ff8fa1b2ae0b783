// Package elastictest is an Elasticsearch for tests: in memory, and strict where
// the real one is strict. It knows templates, data streams with several indices,
// creation in bulk, searches by id, and the ways in which a server refuses.
package elastictest

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

type object = map[string]any

// Server is the fake. Its methods are safe for concurrent use.
type Server struct {
	// MaxBodyBytes is the largest request, after decompression.
	MaxBodyBytes int64
	// Product is the header by which Elasticsearch is known; "" leaves it out.
	Product string
	// Lifecycle has the server know index lifecycle management.
	Lifecycle bool

	http *httptest.Server

	mu        sync.Mutex
	templates map[string]template
	policies  map[string][]byte // as they were put
	streams   map[string]*dataStream
	fail      func(r *http.Request) (code int, after bool)
	requests  int
}

// template is what of an index template matters.
type template struct {
	patterns []string
	mappings object
	policy   string
}

// dataStream is its indices, the one that is written last; each has documents by
// id.
type dataStream struct {
	indices []map[string]object
	blocked bool
	mapping object
}

// New starts a server that ends with the test.
func New(t testing.TB) *Server {
	s := &Server{
		MaxBodyBytes: 100 << 20, Product: "Elasticsearch", Lifecycle: true,
		templates: map[string]template{}, policies: map[string][]byte{}, streams: map[string]*dataStream{},
	}
	s.http = httptest.NewServer(s)
	t.Cleanup(s.http.Close)
	return s
}

// URL is where it listens.
func (s *Server) URL() string { return s.http.URL }

// Fail has requests fail: code 0 lets one through, another is answered with it,
// and with after set only when the request had its effect. Nil lets all through.
func (s *Server) Fail(fail func(r *http.Request) (code int, after bool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}

// Documents gives the documents of a data stream by id, with how many there are
// in all its indices: more than ids when one is there twice.
func (s *Server) Documents(stream string) (byID map[string]map[string]any, count int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	byID = map[string]map[string]any{}
	if d := s.streams[stream]; d != nil {
		for _, index := range d.indices {
			for id, document := range index {
				byID[id] = document
				count++
			}
		}
	}
	return byID, count
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	code, after := 0, false
	if s.fail != nil {
		code, after = s.fail(r)
	}
	if s.Product != "" {
		w.Header().Set("X-Elastic-Product", s.Product)
	}
	if code != 0 && !after {
		refuse(w, code, "made_up_exception", "this server was told to fail")
		return
	}
	body, err := s.body(r)
	if err != nil {
		refuse(w, http.StatusRequestEntityTooLarge, "content_too_long_exception", err.Error())
		return
	}
	status, answer := s.answer(r, body)
	if code != 0 {
		refuse(w, code, "made_up_exception", "this server was told to fail")
		return
	}
	write(w, status, answer)
}

func refuse(w http.ResponseWriter, code int, kind, reason string) {
	write(w, code, object{"error": object{"type": kind, "reason": reason}, "status": code})
}

func write(w http.ResponseWriter, code int, answer any) {
	w.Header().Set("Content-Type", "application/vnd.elasticsearch+json;compatible-with=8")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(answer)
}

// body reads a request's body, decompressed, up to the bound.
func (s *Server) body(r *http.Request) ([]byte, error) {
	reader := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, err
		}
		reader = unzipped
	}
	body, err := io.ReadAll(io.LimitReader(reader, s.MaxBodyBytes+1))
	if err == nil && int64(len(body)) > s.MaxBodyBytes {
		err = fmt.Errorf("entity content is too long for the configured buffer limit [%d]", s.MaxBodyBytes)
	}
	return body, err
}

func mistake(kind, format string, args ...any) (int, any) {
	return http.StatusBadRequest, object{"error": object{"type": kind, "reason": fmt.Sprintf(format, args...)}, "status": 400}
}

// answer does what a request asks for.
func (s *Server) answer(r *http.Request, body []byte) (int, any) {
	name, action := path.Split(strings.TrimPrefix(r.URL.Path, "/"))
	name = strings.TrimSuffix(name, "/")
	switch {
	case r.URL.Path == "/_bulk" && r.Method == http.MethodPost || r.Method == http.MethodPut && action == "_bulk":
		return s.bulk(r, body)
	case name == "_index_template" && r.Method == http.MethodPut:
		return s.putTemplate(action, body)
	case name == "_ilm/policy" && r.Method == http.MethodPut && s.Lifecycle:
		s.policies[action] = body
		return http.StatusOK, object{"acknowledged": true}
	case strings.HasPrefix(name, "_"):
		return http.StatusBadRequest, object{"error": fmt.Sprintf("no handler found for uri [%s] and method [%s]", r.URL.Path, r.Method)}
	}
	d := s.streams[name]
	if d == nil {
		return http.StatusNotFound, object{"error": object{"type": "index_not_found_exception", "reason": "no such index [" + name + "]"}, "status": 404}
	}
	switch action {
	case "_refresh":
		return http.StatusOK, object{"_shards": object{"total": 1, "successful": 1, "failed": 0}}
	case "_search":
		return d.search(body)
	case "_count":
		_, n := d.all()
		return http.StatusOK, object{"count": n}
	case "_rollover":
		d.indices = append(d.indices, map[string]object{})
		return http.StatusOK, object{"rolled_over": true}
	case "_settings":
		d.blocked = bytes.Contains(body, []byte("true"))
		return http.StatusOK, object{"acknowledged": true}
	default:
		return mistake("illegal_argument_exception", "the fake knows no %s", action)
	}
}

func (s *Server) putTemplate(name string, body []byte) (int, any) {
	var t struct {
		Patterns []string `json:"index_patterns"`
		Stream   *object  `json:"data_stream"`
		Template struct {
			Settings object `json:"settings"`
			Mappings object `json:"mappings"`
		} `json:"template"`
	}
	if err := json.Unmarshal(body, &t); err != nil {
		return mistake("x_content_parse_exception", "%v", err)
	}
	if t.Stream == nil || len(t.Patterns) == 0 {
		return mistake("illegal_argument_exception", "the fake wants a data stream's template")
	}
	policy, _ := t.Template.Settings["index.lifecycle.name"].(string)
	if policy != "" && !s.Lifecycle {
		return mistake("illegal_argument_exception", "unknown setting [index.lifecycle.name]")
	}
	s.templates[name] = template{t.Patterns, t.Template.Mappings, policy}
	return http.StatusOK, object{"acknowledged": true}
}

// stream gives a data stream, making it where a template matches.
func (s *Server) stream(name string) *dataStream {
	if d := s.streams[name]; d != nil {
		return d
	}
	for _, t := range s.templates {
		for _, pattern := range t.patterns {
			if ok, _ := path.Match(pattern, name); ok {
				s.streams[name] = &dataStream{indices: []map[string]object{{}}, mapping: t.mappings}
				return s.streams[name]
			}
		}
	}
	return nil
}

func (d *dataStream) all() (hits []any, n int) {
	for i, index := range d.indices {
		for id := range index {
			hits = append(hits, object{"_index": fmt.Sprintf(".ds-%06d", i+1), "_id": id})
			n++
		}
	}
	return hits, n
}

// search finds by ids, or by one term.
func (d *dataStream) search(body []byte) (int, any) {
	var q struct {
		Query struct {
			IDs struct {
				Values []string `json:"values"`
			} `json:"ids"`
			Term map[string]any `json:"term"`
			All  *object        `json:"match_all"`
		} `json:"query"`
		order
	}
	if err := json.Unmarshal(body, &q); err != nil || q.Query.IDs.Values == nil && len(q.Query.Term) != 1 && q.Query.All == nil {
		return mistake("parsing_exception", "the fake finds all, by ids or by one term only")
	}
	hits := []object{}
	for i, index := range d.indices {
		for id, document := range index {
			found := slices.Contains(q.Query.IDs.Values, id) || q.Query.All != nil
			for field, value := range q.Query.Term {
				found = found || has(document, strings.Split(field, "."), value)
			}
			if found {
				hits = append(hits, object{"_index": fmt.Sprintf(".ds-%06d", i+1), "_id": id, "_source": document})
			}
		}
	}
	return http.StatusOK, object{"_shards": object{"failed": 0}, "hits": object{"hits": q.apply(hits)}}
}

// Policy gives the lifecycle policy that a template names; "" when there is none
// or the policy was never written.
func (s *Server) Policy(templateName string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	policy := s.templates[templateName].policy
	if s.policies[policy] == nil {
		return ""
	}
	return policy
}

// PolicyBody gives what a lifecycle policy was put with; nil when there is none.
func (s *Server) PolicyBody(name string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.policies[name]
}

// has tells whether a field, by its path, has a value; names may have dots in
// them.
func has(document object, path []string, value any) bool {
	for n := 1; n <= len(path); n++ {
		switch at := document[strings.Join(path[:n], ".")].(type) {
		case map[string]any:
			if has(at, path[n:], value) {
				return true
			}
		default:
			if n == len(path) && at != nil && fmt.Sprint(at) == fmt.Sprint(value) {
				return true
			}
		}
	}
	return false
}

// parseTime reads what a date field takes.
func parseTime(v any) bool {
	text, ok := v.(string)
	if !ok {
		return false
	}
	_, err := time.Parse(time.RFC3339Nano, text)
	return err == nil
}
