// Package forward sends what is in a TSDB's log on to stores that take remote
// write, from where it came to before: also over restarts.
//
// Prometheus' own queue begins at each start with samples that are newer than the
// start. Here most samples of an outage are older than that: agents kept them
// while the control plane was away. So a [Sender] reads the log itself, in its
// order, and notes once a second how far all was taken; what is sent again after a
// crash is the same sample at the same time, which stores take as there already.
//
// The log holds what came in the last two to three hours. Where the store was away
// for longer, what has left the log is read from the TSDB's blocks.
package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	promremote "github.com/prometheus/prometheus/storage/remote"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/wlog"

	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/metric"
)

const (
	retryFirst = 100 * time.Millisecond
	retryMost  = 30 * time.Second
	// requestSamples is how many samples one request has at most.
	requestSamples = 2000
	// pollEvery is how often the log is looked at unasked.
	pollEvery = time.Second
	// pace is the least time between two looks, so that samples that trickle in
	// go out together.
	pace = 200 * time.Millisecond
	// saveEvery is how often the position is noted, while samples come.
	saveEvery = time.Second
)

// Metrics are of all senders.
type Metrics struct {
	samples *prometheus.CounterVec
	retries *prometheus.CounterVec
	behind  *prometheus.GaugeVec
	reader  *wlog.LiveReaderMetrics
}

// NewMetrics registers them.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	return &Metrics{
		samples: metric.NewCounter(reg, metric.ControlForwardSamples), retries: metric.NewCounter(reg, metric.ControlForwardRetries),
		behind: metric.NewGauge(reg, metric.ControlForwardBehind), reader: wlog.NewLiveReaderMetrics(nil),
	}
}

// Settings is what of a store's configuration a sender needs.
type Settings struct {
	Name     string // of the store; its position goes by it
	Version  int    // of remote write: 1 or 2
	External labels.Labels
	// Shards is how many requests may be under way; > 0.
	Shards int
	// Late is how much older than the newest sample one may be that the TSDB
	// takes.
	Late time.Duration
}

// Deps is what a sender is given.
type Deps struct {
	Dir     string // the TSDB's
	Client  promremote.WriteClient
	Samples storage.Queryable // the TSDB
	// NewestMS is the time of the newest sample that the TSDB has, in
	// milliseconds since 1970; 0 when it has none.
	NewestMS int64
	Metrics  *Metrics
	Log      *slog.Logger
}

// Sender sends to one store. Run does the work; the other methods are safe for
// concurrent use.
type Sender struct {
	settings Settings
	deps     Deps
	wal      string
	news     chan struct{}

	// Of the one goroutine of Run.
	series  map[chunks.HeadSeriesRef]series
	pending []entry
	newest  int64     // time of the newest sample that was read, in milliseconds
	at      *position // all before it was taken
	saved   *position
	savedAt time.Time

	mu    sync.Mutex
	idle  time.Time // when the log was last read to its end and all of it taken; at first, the start
	asked bool      // something was written since, or may have been
}

// series is one that the log told of.
type series struct {
	labels  labels.Labels
	segment int // the last that told of it
}

// New makes a sender to a store, which gets what is written to the TSDB from now
// on, if it is new. Run sends.
func New(settings Settings, deps Deps) (*Sender, error) {
	deps.Log = deps.Log.With("store", settings.Name)
	for _, result := range []string{resultTaken, resultRefused} {
		deps.Metrics.samples.WithLabelValues(settings.Name, result)
	}
	deps.Metrics.retries.WithLabelValues(settings.Name)
	s := &Sender{settings: settings, deps: deps, wal: filepath.Join(deps.Dir, "wal"), news: make(chan struct{}, 1), idle: time.Now(), asked: true}
	return s, s.begin()
}

// Notify says that something was written to the log.
func (s *Sender) Notify() {
	s.mu.Lock()
	s.asked = true
	s.mu.Unlock()
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// Run sends until ctx ends; what fails is tried again without end.
func (s *Sender) Run(ctx context.Context) error {
	return life.Again(ctx, life.Retry{First: retryFirst, Most: retryMost, Failed: func(err error) {
		s.deps.Log.Error("remote write begins again where it was", "error", err)
	}}, func(ctx context.Context) error {
		err := s.follow(ctx)
		return errors.Join(err, s.save())
	})
}

// Drain waits until all that is in the log was taken, or ctx ends.
func (s *Sender) Drain(ctx context.Context) {
	for asked := true; asked && ctx.Err() == nil; {
		s.Notify()
		began := time.Now()
		life.Sleep(ctx, pace)
		s.mu.Lock()
		asked = s.idle.Before(began)
		s.mu.Unlock()
	}
}

// caughtUp notes that all of the log that there was at a time has been taken.
func (s *Sender) caughtUp(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle, s.asked = at, false
}

// behind tells the metric how long there has been something to send.
func (s *Sender) behind() {
	s.mu.Lock()
	defer s.mu.Unlock()
	seconds := 0.0
	if s.asked {
		seconds = time.Since(s.idle).Seconds()
	}
	s.deps.Metrics.behind.WithLabelValues(s.settings.Name).Set(seconds)
}

// follow reads the log from where the sender was, and goes on with what comes.
func (s *Sender) follow(ctx context.Context) error {
	first, last, err := wlog.Segments(s.wal)
	if err != nil {
		return fmt.Errorf("find the log of samples: %w", err)
	}
	at, _, err := s.load()
	if err != nil {
		return err
	}
	s.at, s.newest, s.pending = nil, at.NewestMS, nil
	s.series = map[chunks.HeadSeriesRef]series{}
	checkpoint, err := s.readCheckpoint()
	if err != nil {
		return err
	}
	switch {
	case at.Segment > last: // the log was repaired
		at.Segment, at.Offset = last, 0
	case at.Segment < first:
		if err := s.fromBlocks(ctx, at.NewestMS); err != nil {
			return err
		}
		at.Segment, at.Offset = last, 0 // what came meanwhile is behind its beginning
	}
	for n := max(first, checkpoint+1); n < at.Segment; n++ {
		if err := s.learn(n); err != nil {
			return err
		}
	}
	for n, from := at.Segment, at.Offset; ; n, from = n+1, 0 {
		if err := s.segment(ctx, n, from); err != nil {
			return err
		}
		if checkpoint, err = s.forget(checkpoint); err != nil {
			return err
		}
	}
}
