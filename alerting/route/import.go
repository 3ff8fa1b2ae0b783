package route

import (
	"bytes"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Imported is what became of an Alertmanager's configuration.
type Imported struct {
	// Config is the parts of the control plane's configuration: YAML.
	Config []byte
	// Taken says what was taken, and Left what was not and why, a sentence each.
	Taken, Left []string
}

// importer gathers what becomes of a configuration.
type importer struct {
	from  map[string]any
	to    map[string]any
	names map[string][]string // Vigil's receivers, by Alertmanager's
	quiet []any               // those that do not hear of what is over
	dir   string              // of the file
	Imported
}

// Import reads an alertmanager.yml and gives Vigil's configuration for the same.
// Times that Alertmanager has by default are written out, so that they hold.
// Paths of templates are as seen from dir, the directory that the file is in. It
// fails with [fault.Invalid] for what is no such file.
func Import(text []byte, dir string) (Imported, error) {
	i := &importer{to: map[string]any{}, names: map[string][]string{}, dir: dir}
	if err := yaml.Unmarshal(text, &i.from); err != nil {
		return Imported{}, fault.New(fault.Invalid, "read alertmanager.yml: %w", err)
	}
	root, ok := i.from["route"].(map[string]any)
	if !ok {
		return Imported{}, fault.New(fault.Invalid, "read alertmanager.yml: it has no route")
	}
	i.receivers()
	if len(i.to) == 0 {
		i.left("no receiver of the file is of a kind that Vigil has: the route names receivers that are not there")
	}
	tree := i.route(root, "route")
	for key, value := range map[string]any{
		"group_by": []any{}, "group_wait": "30s", "group_interval": "5m0s", "repeat_interval": "4h0m0s",
	} {
		if _, given := tree[key]; !given {
			tree[key] = value
		}
	}
	i.to["route"] = tree
	i.to["storm"] = map[string]any{"after": 0} // Alertmanager tells everything by itself
	i.taken("the routing tree")
	i.rest()
	out := map[string]any{"alerting": i.to}
	i.global(out)
	var config bytes.Buffer
	encoder := yaml.NewEncoder(&config)
	encoder.SetIndent(2)
	if err := encoder.Encode(out); err != nil {
		return Imported{}, fmt.Errorf("write configuration: %w", err)
	}
	i.Config = config.Bytes()
	return i.Imported, nil
}

func (i *importer) taken(format string, args ...any) {
	i.Taken = append(i.Taken, fmt.Sprintf(format, args...))
}

func (i *importer) left(format string, args ...any) {
	i.Left = append(i.Left, fmt.Sprintf(format, args...))
}

// routeKeys are the keys of a route that Vigil has under the same name.
func routeKeys() []string {
	return []string{"matchers", "match", "match_re", "continue", "group_by", "mute_time_intervals", "active_time_intervals"}
}

// route converts a node of the tree and what is below it.
func (i *importer) route(from map[string]any, where string) map[string]any {
	to := map[string]any{}
	for _, key := range slices.Sorted(maps.Keys(from)) {
		value := from[key]
		switch {
		case key == "receiver":
			i.receiverOf(to, fmt.Sprint(value), where)
		case key == "routes":
			var below []any
			list, _ := value.([]any)
			for n, item := range list {
				child, _ := item.(map[string]any)
				below = append(below, i.route(child, fmt.Sprintf("%s.routes[%d]", where, n)))
			}
			to[key] = below
		case strings.HasSuffix(key, "_wait") || strings.HasSuffix(key, "_interval"):
			i.duration(to, key, fmt.Sprint(value), where)
		case slices.Contains(routeKeys(), key):
			to[key] = value
		default:
			i.left("%s.%s: Vigil has no such key", where, key)
		}
	}
	return to
}

func (i *importer) receiverOf(to map[string]any, name, where string) {
	switch vigils, known := i.names[name]; {
	case !known:
		i.left("%s.receiver: there is no receiver %q", where, name)
	case len(vigils) == 0:
		to["receiver"] = Nobody
	case len(vigils) == 1:
		to["receiver"] = vigils[0]
	default:
		to["receivers"] = vigils
	}
}

// duration converts a duration: Alertmanager also has days, weeks and years.
func (i *importer) duration(to map[string]any, key, text, where string) {
	d, err := model.ParseDuration(text)
	if err != nil {
		i.left("%s.%s: %v", where, key, err)
		return
	}
	to[key] = time.Duration(d).String()
}

// rest converts inhibition and times.
func (i *importer) rest() {
	if rules := i.inhibitRules(); len(rules) > 0 {
		i.to["inhibit_rules"] = rules
		i.taken("%d inhibition rules", len(rules))
	}
	var times []any
	for _, key := range []string{"time_intervals", "mute_time_intervals"} {
		more, _ := i.from[key].([]any)
		times = append(times, more...)
	}
	if len(times) > 0 {
		i.to["time_intervals"] = times
		i.taken("%d time intervals", len(times))
	}
	if len(i.quiet) > 0 {
		i.to["not_resolved"] = i.quiet
	}
	i.templates()
	for _, key := range slices.Sorted(maps.Keys(i.from)) {
		if !slices.Contains([]string{"global", "route", "receivers", "inhibit_rules", "time_intervals", "mute_time_intervals", "templates"}, key) {
			i.left("%s: Vigil has no such key", key)
		}
	}
}

// inhibitKeys are the keys of an inhibition rule that Vigil has under the same
// name.
func inhibitKeys() []string {
	return []string{
		"source_match", "source_match_re", "source_matchers", "target_match", "target_match_re", "target_matchers", "equal",
	}
}

// inhibitRules converts inhibition. A rule with more to it than Vigil knows is
// left out: without that it would keep quiet what it should not.
func (i *importer) inhibitRules() []any {
	rules, _ := i.from["inhibit_rules"].([]any)
	var all []any
	for n, item := range rules {
		from, _ := item.(map[string]any)
		to := maps.Clone(from)
		delete(to, "name") // it is for people
		unknown := slices.DeleteFunc(slices.Sorted(maps.Keys(to)), func(key string) bool { return slices.Contains(inhibitKeys(), key) })
		if len(unknown) > 0 {
			i.left("inhibit_rules[%d]: Vigil has no such key as %s; the rule is left out", n, strings.Join(unknown, ", "))
			continue
		}
		all = append(all, to)
	}
	return all
}

// templates takes the files of templates, which receivers' texts refer to.
func (i *importer) templates() {
	patterns, _ := i.from["templates"].([]any)
	var all []any
	for _, pattern := range patterns {
		path := fmt.Sprint(pattern)
		if !filepath.IsAbs(path) {
			path = filepath.Join(i.dir, path)
		}
		files, err := filepath.Glob(path)
		if err != nil || len(files) == 0 {
			i.left("templates: no file is called %s; the control plane does not start with texts that need it", path)
			continue
		}
		all = append(all, path)
		i.taken("templates %s (%d files)", path, len(files))
	}
	if len(all) > 0 {
		i.to["templates"] = all
	}
}

// global converts the timeout of alerts that have no end.
func (i *importer) global(out map[string]any) {
	global, _ := i.from["global"].(map[string]any)
	for _, key := range slices.Sorted(maps.Keys(global)) {
		switch {
		case key == "resolve_timeout":
			incident := map[string]any{}
			i.duration(incident, "external_timeout", fmt.Sprint(global[key]), "global.resolve_timeout")
			out["incident"] = incident
			i.taken("global.resolve_timeout, as incident.external_timeout")
		case slices.Contains(globalsUsed(), key): // where a receiver needs it
		default:
			i.left("global.%s: Vigil has no such key", key)
		}
	}
}
