package controlplane

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/controlplane/export"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/version"
)

// exportsDir is where dead letters are, below the state directory.
const exportsDir = "exports"

// ExportConfig is one exporter:
//
//	exports:
//	- name: search
//	  kind: elastic
//	  settings: {addresses: ["https://search:9200"]}
type ExportConfig struct {
	// Name is the exporter's own; its cursors and dead letters go by it.
	Name string `yaml:"name"`
	// Kind is one of the catalogue in builtin.go.
	Kind string `yaml:"kind"`
	// Streams are what is exported: events, findings, incidents, audit, logs, traces,
	// metrics. None means all that the kind takes.
	Streams []string `yaml:"streams"`
	// MaxAge is how long a document is tried before it becomes a dead letter; 0
	// means six days, one less than the bus keeps events for.
	MaxAge time.Duration `yaml:"max_age"`
	// DeadLetterBytes bounds the file of dead letters; 0 means 64 MiB.
	DeadLetterBytes int64 `yaml:"dead_letter_bytes"`
	// Settings are the kind's.
	Settings conf.Raw `yaml:"settings"`
}

// Check reports names and limits that cannot be. The settings are checked by
// their kind.
func (c ExportConfig) Check(report func(key, format string, args ...any)) {
	if !regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`).MatchString(c.Name) {
		report("name", "is %q; want up to 63 of a-z, 0-9, - and _", c.Name)
	}
	if !slices.Contains(Exporters().Names(), c.Kind) {
		report("kind", "is %q; want %s", c.Kind, strings.Join(Exporters().Names(), " or "))
	}
	for i, stream := range c.Streams {
		if !slices.Contains(export.Streams(), stream) {
			report(fmt.Sprintf("streams[%d]", i), "is %q; want one of %s", stream, strings.Join(export.Streams(), ", "))
		}
	}
	if c.MaxAge < 0 {
		report("max_age", "is %s; want 0 or more", c.MaxAge)
	}
	if c.DeadLetterBytes != 0 && c.DeadLetterBytes < 64<<10 {
		report("dead_letter_bytes", "is %d; want at least %d", c.DeadLetterBytes, 64<<10)
	}
}

// limits are those of an exporter that takes some streams.
func (c ExportConfig) limits(taken []string) export.Limits {
	limits := export.Limits{MaxAge: c.MaxAge, DeadBytes: c.DeadLetterBytes, Streams: map[string]bool{}}
	if limits.MaxAge == 0 {
		limits.MaxAge = 6 * 24 * time.Hour
	}
	if limits.DeadBytes == 0 {
		limits.DeadBytes = 64 << 20
	}
	streams := c.Streams
	if len(streams) == 0 {
		streams = taken
	}
	for _, stream := range streams {
		limits.Streams[stream] = true
	}
	return limits
}

// checkStreams finds streams that the kind does not take.
func (c ExportConfig) checkStreams(taken []string) error {
	for _, stream := range c.Streams {
		if !slices.Contains(taken, stream) {
			return c.Settings.Problem("are of kind %s, which does not take the stream %s; it takes %s", c.Kind, stream, strings.Join(taken, ", "))
		}
	}
	return nil
}

// exportersOf builds every exporter, or gives every mistake at once.
func exportersOf(configs []ExportConfig, deps func(name string) export.Deps) ([]export.Exporter, error) {
	var all []export.Exporter
	var wrong []error
	taken := map[string]bool{}
	for _, c := range configs {
		if taken[c.Name] {
			wrong = append(wrong, c.Settings.Problem("belongs to the second exporter with the name %q", c.Name))
		}
		taken[c.Name] = true
		made, err := Exporters().Build(c.Kind, c.Settings, deps(c.Name))
		wrong = append(wrong, err)
		if err == nil {
			wrong = append(wrong, c.checkStreams(made.Streams()))
		}
		all = append(all, made)
	}
	if err := conf.Join(wrong...); err != nil {
		for _, made := range all {
			if made != nil {
				_ = made.Close()
			}
		}
		return nil, err
	}
	return all, nil
}

// checkExports finds the mistakes in the exporters' settings.
func checkExports(configs []ExportConfig) error {
	made, err := exportersOf(configs, func(name string) export.Deps {
		return export.Deps{Name: name, Version: version.String(), Log: slog.New(slog.DiscardHandler), Clock: time.Now}
	})
	for _, m := range made {
		_ = m.Close()
	}
	return err
}

// makeExporters makes the exporters, for as long as this control plane runs; their
// streams decide what this control plane
// says of itself. What they log is not exported: one that is told of for every
// request would never end.
func (c *controlPlane) makeExporters(log *slog.Logger) (err error) {
	c.made, err = exportersOf(c.config.Exports, func(name string) export.Deps {
		return export.Deps{Name: name, Version: version.String(), Log: log, Clock: time.Now}
	})
	return err
}

// closeExporters is for the end, not for that of the duty, which may come back.
func (c *controlPlane) closeExporters() {
	for _, made := range c.made {
		_ = made.Close()
	}
}

// exporters makes the runners.
func (c *controlPlane) exporters(trouble export.Trouble) export.Set {
	var set export.Set
	for i, exporter := range c.made {
		set = append(set, export.NewRunner(c.config.Exports[i].limits(exporter.Streams()), export.RunnerDeps{
			Name: c.config.Exports[i].Name, Kind: c.config.Exports[i].Kind, Exporter: exporter,
			Bus: c.bus, Store: c.store, Audit: c.audit, Dir: filepath.Join(c.config.StateDir, exportsDir),
			Trouble: trouble, Metrics: c.exports, Log: c.log, Clock: time.Now,
		}))
	}
	return set
}

// ExporterFailing opens an incident about an exporter.
func (d *desk) ExporterFailing(ctx context.Context, exporter, cause string, since time.Time) error {
	return d.trouble(ctx, "exporter-failing", "exporter", exporter, failing("Exporter "+exporter+" takes nothing: "+cause, since, d.clock()))
}

// ExporterWell ends it.
func (d *desk) ExporterWell(ctx context.Context, exporter string, at time.Time) error {
	return d.trouble(ctx, "exporter-failing", "exporter", exporter, over(at))
}
