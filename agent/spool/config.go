package spool

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/metric"
)

// Config is what users say about a spool.
type Config struct {
	// Dir is the spool's own directory; it is made where there is none.
	Dir string `yaml:"dir"`
	// MaxBytes bounds the segments on disk, in bytes; at least two segments.
	MaxBytes int64 `yaml:"max_bytes"`
	// SegmentBytes is when a segment is full, in bytes; at least 1 KiB. It is
	// also the bound of one record.
	SegmentBytes int64 `yaml:"segment_bytes"`
	// SyncInterval is how often appended records are put on stable storage; 0
	// does it at each append.
	SyncInterval time.Duration `yaml:"sync_interval"`
}

// minSegmentBytes keeps a segment larger than a few records.
const minSegmentBytes = 1 << 10

// Defaults is 256 MiB in segments of 4 MiB, synced at each append.
func Defaults(dir string) Config {
	return Config{Dir: dir, MaxBytes: 256 << 20, SegmentBytes: 4 << 20}
}

// Check reports bounds that leave no room.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.Dir == "" {
		report("dir", "is empty; want a directory")
	}
	if c.SegmentBytes < minSegmentBytes {
		report("segment_bytes", "is %d; want at least %d", c.SegmentBytes, minSegmentBytes)
	}
	if c.MaxBytes < 2*c.SegmentBytes {
		report("max_bytes", "is %d; want at least two segments of %d bytes", c.MaxBytes, c.SegmentBytes)
	}
	if c.SyncInterval < 0 {
		report("sync_interval", "is %v; want 0 or more", c.SyncInterval)
	}
}

// Deps is what a spool works with.
type Deps struct {
	FS      durable.FS       // nil: the machine's
	Log     *slog.Logger     // nil: no log
	Metrics *Metrics         // nil: nobody looks
	Clock   func() time.Time // nil: time.Now; gives a new epoch its number
	Class   string           // what the spool is for, in logs and metrics: "events", "samples"
	// Budget bounds the bytes of several spools together; nil: MaxBytes alone.
	Budget *Budget
	// Yields is the spool that gives way to this one when the budget or the
	// disk is used up; nil: this spool's own oldest frames do.
	Yields *Spool
}

func (d Deps) withDefaults() Deps {
	if d.FS == nil {
		d.FS = durable.OS{}
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Metrics == nil {
		d.Metrics = NewMetrics(prometheus.NewRegistry())
	}
	if d.Clock == nil {
		d.Clock = time.Now
	}
	d.Log = d.Log.With("spool", d.Class)
	return d
}

// Metrics are the metrics of all spools of a program.
type Metrics struct {
	frames, bytes    *prometheus.GaugeVec
	dropped, skipped *prometheus.CounterVec
}

// NewMetrics registers them; once a registry.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	return &Metrics{
		frames:  metric.NewGauge(reg, metric.AgentSpoolFrames),
		bytes:   metric.NewGauge(reg, metric.AgentSpoolBytes),
		dropped: metric.NewCounter(reg, metric.AgentSpoolDropped),
		skipped: metric.NewCounter(reg, metric.AgentSpoolSkipped),
	}
}
