package elastic

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/elastic/go-elasticsearch/v8/esapi"

	"github.com/vigil-ml/vigil/controlplane/export"
	"github.com/vigil-ml/vigil/internal/fault"
)

// maxAnswerBytes bounds what is read of an answer.
const maxAnswerBytes = 64 << 20

// request is one of esapi's.
type request interface {
	// Do sends it.
	Do(ctx context.Context, transport esapi.Transport) (*esapi.Response, error)
}

// answer is what a server said.
type answer struct {
	code int
	body []byte
	wait time.Duration // what it asked for with Retry-After; 0 when nothing
}

// call sends a request and reads the answer. Its error means that there is none.
func (e *exporter) call(ctx context.Context, r request) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, e.config.Timeout)
	defer cancel()
	response, err := r.Do(ctx, e.client)
	if err != nil {
		return answer{}, fault.New(fault.Unavailable, "ask Elasticsearch: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes))
	if err != nil {
		return answer{}, fault.New(fault.Unavailable, "read answer of Elasticsearch: %w", err)
	}
	a := answer{code: response.StatusCode, body: body}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds > 0 {
		a.wait = time.Duration(seconds) * time.Second
	}
	if a.ok() && !e.config.AnyProduct && response.Header.Get("X-Elastic-Product") != "Elasticsearch" {
		return answer{}, fault.Mark(fault.Unsupported, errProduct)
	}
	return a, nil
}

func (a answer) ok() bool { return a.code >= 200 && a.code < 300 }

// failure is an answer that is no success, as an error.
func (a answer) failure(what string) error {
	kind := fault.Unavailable
	switch a.code {
	case http.StatusUnauthorized:
		kind = fault.Unauthenticated
	case http.StatusForbidden:
		kind = fault.Denied
	case http.StatusBadRequest:
		kind = fault.Invalid
	}
	err := fault.New(kind, "%s: Elasticsearch answered %d: %s", what, a.code, reasonOf(a.body))
	if a.wait > 0 {
		return export.RetryAfter{Wait: a.wait, Err: err}
	}
	return err
}

// reasonOf gives the reason in an error's body, or its beginning.
func reasonOf(body []byte) string {
	var parsed struct {
		Error json.RawMessage `json:"error"`
	}
	if json.Unmarshal(body, &parsed) == nil && len(parsed.Error) > 0 {
		var cause cause
		if json.Unmarshal(parsed.Error, &cause) == nil && cause.Type != "" {
			return cause.String()
		}
		var text string
		if json.Unmarshal(parsed.Error, &text) == nil {
			return text
		}
	}
	return fmt.Sprintf("%.200s", body)
}

// cause is why Elasticsearch did not do something.
type cause struct {
	Type     string `json:"type"`
	Reason   string `json:"reason"`
	CausedBy *cause `json:"caused_by"`
}

// String is the cause and the one below it.
func (c cause) String() string {
	text := c.Type + ": " + c.Reason
	if c.CausedBy != nil {
		text += " (" + c.CausedBy.String() + ")"
	}
	return text
}
