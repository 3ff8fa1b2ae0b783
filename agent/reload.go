package agent

import (
	"context"
	"reflect"
	"slices"
	"strings"

	"github.com/vigil-ml/vigil/agent/collect"
)

// reloader takes other configurations while the agent runs.
type reloader struct {
	*agent
	written    Config // as the user wrote it; config has what follows from it too
	deps       collect.Deps
	collectors *collect.Runner
	setLevel   func(string)
}

// changeable are the parts, by their keys, that change without a restart.
func changeable() []string { return []string{"collectors", "log", "scan"} }

// run takes configurations until ctx ends.
func (r *reloader) run(ctx context.Context, reloads <-chan Config) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case config := <-reloads:
			r.take(config)
		}
	}
}

// take changes what can be changed, and says of the rest that it waits for a
// restart. A mistake that shows only now changes nothing.
func (r *reloader) take(config Config) {
	sources, err := config.sources(r.deps)
	if err == nil {
		err = r.collectors.Replace(sources)
	}
	if err != nil {
		r.log.Error("reload configuration: the old one stays", "error", err)
		return
	}
	r.setLevel(config.Log.Level)
	waiting := differ(r.written, config)
	if config.Log.Format != r.written.Log.Format {
		waiting = append(waiting, "log.format")
	}
	r.log.Info("configuration is reloaded", "collectors", len(sources), "level", config.Log.Level)
	if len(waiting) > 0 {
		r.log.Warn("some changes wait for a restart of the agent; until then the old values hold", "keys", strings.Join(waiting, ", "))
	}
}

// differ gives the keys of the parts that changed and cannot without a restart.
func differ(before, after Config) (keys []string) {
	a, b := reflect.ValueOf(before), reflect.ValueOf(after)
	for i := range a.NumField() {
		key := a.Type().Field(i).Tag.Get("yaml")
		if !slices.Contains(changeable(), key) && !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			keys = append(keys, key)
		}
	}
	return keys
}
