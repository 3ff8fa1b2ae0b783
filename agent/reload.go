package agent

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/metric"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

// reloader takes other configurations while the agent runs: the user's, and
// what the control plane lays over it.
type reloader struct {
	*agent
	written    Config                           // as the user wrote it; config has what follows from it too
	latest     Config                           // as the user wrote it last
	settings   atomic.Pointer[agentv1.Settings] // that were taken last; run changes it
	taken      *prometheus.CounterVec
	told       chan *agentv1.Settings // holds the last that was not taken yet
	deps       collect.Deps
	collectors *collect.Runner
	setLevel   func(string)
}

func newReloader(a *agent, written Config, setLevel func(string)) *reloader {
	return &reloader{
		agent: a, written: written, latest: written, told: make(chan *agentv1.Settings, 1), setLevel: setLevel,
		taken: metric.NewCounter(a.metrics, metric.AgentSettings),
	}
}

// changeable are the parts, by their keys, that change without a restart.
func changeable() []string { return []string{"collectors", "log", "scan"} }

// tell hands on what the control plane sets. It does not block, and is for one
// goroutine.
func (r *reloader) tell(settings *agentv1.Settings) {
	select {
	case <-r.told: // the older one has no meaning any more
	default:
	}
	r.told <- settings
}

// run takes configurations until ctx ends.
func (r *reloader) run(ctx context.Context, reloads <-chan Config) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case config := <-reloads:
			r.take(config)
		case settings := <-r.told:
			r.set(settings)
		}
	}
}

// take changes what can be changed, and says of the rest that it waits for a
// restart. A mistake that shows only now changes nothing.
func (r *reloader) take(config Config) {
	if err := r.replace(config, r.settings.Load()); err != nil {
		r.log.Error("reload configuration: the old one stays", "error", err)
		return
	}
	r.latest = config
	r.setLevel(config.Log.Level)
	waiting := waits(r.written, config)
	if config.Log.Format != r.written.Log.Format {
		waiting = append(waiting, "log.format")
	}
	r.log.Info("configuration is reloaded", "collectors", len(r.collectors.Statuses()), "level", config.Log.Level)
	if len(waiting) > 0 {
		r.log.Warn("some changes wait for a restart of the agent; until then the old values hold", "keys", strings.Join(waiting, ", "))
	}
}

// set lays what the control plane sets over the configuration.
func (r *reloader) set(settings *agentv1.Settings) {
	before := r.settings.Load()
	if len(settings.GetCollectors()) == 0 && len(before.GetCollectors()) == 0 || proto.Equal(settings, before) {
		return
	}
	if err := r.replace(r.latest, settings); err != nil {
		r.taken.WithLabelValues("refused").Inc()
		r.log.Error("take the control plane's settings: the old ones stay", "error", err)
		return
	}
	r.settings.Store(settings)
	r.taken.WithLabelValues("taken").Inc()
	r.log.Info("the control plane's settings are taken", "collectors", slices.Sorted(maps.Keys(settings.GetCollectors())))
}

func (r *reloader) replace(config Config, settings *agentv1.Settings) error {
	config = overlay(config, settings)
	sources, err := config.sources(r.deps)
	if err != nil {
		return err
	}
	return r.collectors.Replace(sources)
}

// overlay gives a configuration with what the control plane sets. Kinds that
// this agent does not have are passed over.
func overlay(config Config, settings *agentv1.Settings) Config {
	all := maps.Clone(config.Collectors)
	if all == nil {
		all = map[string]Collector{}
	}
	for kind, set := range settings.GetCollectors() {
		c := all[kind]
		if set.Off != nil {
			c.Off = *set.Off
		}
		if d := set.GetInterval().AsDuration(); d > 0 {
			c.Interval = d
		}
		all[kind] = c
	}
	config.Collectors = all
	return config
}

// waits gives the keys of the parts that changed and cannot without a restart.
func waits(before, after Config) (keys []string) {
	return slices.DeleteFunc(conf.Differ(before, after), func(key string) bool { return slices.Contains(changeable(), key) })
}
