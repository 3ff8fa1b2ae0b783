package controlplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vigil-ml/vigil/controlplane/load"
	"github.com/vigil-ml/vigil/controlplane/pipeline"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/serve"
)

const (
	// mostLag is how old the events may be that the pipelines here work on before
	// this replica says that it is not ready.
	mostLag = 2 * time.Minute
	// askedFor bounds a question to the store.
	askedFor = 2 * time.Second
)

// check is one part of what /readyz tells of.
type check struct {
	part string
	err  func(context.Context) error
}

// readiness tells whether agents and operators are well served here. It differs
// from health: what is not ready now may be later by itself, and is no reason to
// start the process anew.
type readiness struct {
	draining atomic.Bool
	checks   []check
}

// ready puts together what /readyz looks at.
func (c *controlPlane) ready(events []*pipeline.Pipeline) *readiness {
	r := c.readiness
	r.checks = []check{
		{"store", c.askStore},
		{"bus", func(context.Context) error { return c.bus.Err() }},
		{"metrics", func(context.Context) error { return c.samples.Err() }},
		{"pipeline", func(context.Context) error { return healthy(events)() }},
		{"pipeline lag", func(context.Context) error { return lagging(events) }},
		{"memory", func(context.Context) error { return c.load.Err() }},
	}
	return r
}

func (c *controlPlane) askStore(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askedFor)
	defer cancel()
	return c.store.View(ctx, func(tx *store.Tx) error {
		_, err := tx.Cursor("ready") // there is none; what matters is the answer
		return err
	})
}

func lagging(events []*pipeline.Pipeline) error {
	var all []error
	for _, p := range events {
		if lag := p.Lag(); lag > mostLag {
			all = append(all, fmt.Errorf("%s works on events of %s ago", p.Name(), lag.Round(time.Second)))
		}
	}
	return errors.Join(all...)
}

// ServeHTTP answers with a line for each part, and with 503 when one is not
// ready.
func (r *readiness) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	var text strings.Builder
	status := http.StatusOK
	for _, c := range append([]check{{"draining", r.drains}}, r.checks...) {
		said := "ok"
		if err := c.err(request.Context()); err != nil {
			status, said = http.StatusServiceUnavailable, strings.ReplaceAll(err.Error(), "\n", "; ")
		}
		fmt.Fprintf(&text, "%s: %s\n", c.part, said)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text.String())
}

func (r *readiness) drains(context.Context) error {
	if r.draining.Load() {
		return fault.New(fault.Unavailable, "this replica goes away")
	}
	return nil
}

// untilDrained gives a context that ends some time behind another: until then
// everything goes on, but /readyz says that this replica goes away, so that load
// balancers send nobody here anymore.
func (r *readiness) untilDrained(ctx context.Context, delay time.Duration) (context.Context, context.CancelFunc) {
	later, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		r.draining.Store(true)
		time.AfterFunc(delay, cancel)
	})
	return later, func() { stop(); cancel() }
}

// shedding refuses requests for want of memory, by the work that they are.
func shedding(gauge *load.Gauge, workOf func(*http.Request) load.Work, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := gauge.Admit(workOf(r))
		if err == nil {
			next.ServeHTTP(w, r)
			return
		}
		if after, ok := fault.RetryAfterOf(err); ok {
			serve.SetRetryAfter(w, after)
		}
		http.Error(w, err.Error(), fault.KindOf(err).HTTPStatus())
	})
}

// ofMetrics tells samples that are pushed from queries.
func ofMetrics(r *http.Request) load.Work {
	if r.URL.Path == "/api/v1/write" {
		return load.Samples
	}
	return load.Queries
}

func ofOperators(*http.Request) load.Work { return load.Calls }
