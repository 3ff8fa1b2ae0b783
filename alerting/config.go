package alerting

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/alerting/route"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/plug"
)

// Config is what users write. Each receiver has a name and exactly one key
// that is its kind:
//
//	receivers:
//	- name: oncall
//	  slack: {url: https://hooks.slack.com/services/...}
type Config struct {
	// Receivers is who can be told; Route says of what. None means the control
	// plane's log.
	Receivers []conf.Raw `yaml:"receivers"`
	// MaxAge is how long a notification is tried before it is given up.
	MaxAge time.Duration `yaml:"max_age"`
	// TryTimeout is how long one try may take; between 1s and 20s.
	TryTimeout time.Duration `yaml:"try_timeout"`
	// Route is who is told of what, as Alertmanager's route. None: every receiver
	// is told of every incident that calls a person, and nobody of a warning.
	Route *route.Config `yaml:"route"`
	// InhibitRules keep alerts quiet while others fire.
	InhibitRules []route.InhibitConfig `yaml:"inhibit_rules"`
	// TimeIntervals are named times for routes.
	TimeIntervals []route.IntervalConfig `yaml:"time_intervals"`
	// Escalations tell more people of what nobody acknowledges.
	Escalations []route.EscalationConfig `yaml:"escalations"`
	// Heartbeats tell receivers regularly that Vigil is alive.
	Heartbeats []route.HeartbeatConfig `yaml:"heartbeats"`
	// NotResolved names the receivers that are not told when something is over:
	// Alertmanager's send_resolved: false.
	NotResolved []string `yaml:"not_resolved"`
}

// Defaults tries for a day, ten seconds at a time.
func Defaults() Config {
	return Config{MaxAge: 24 * time.Hour, TryTimeout: 10 * time.Second}
}

// Check reports times that make no sense. Receivers are checked by [New],
// which knows their kinds.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.MaxAge < time.Minute {
		report("max_age", "is %v; want at least 1m", c.MaxAge)
	}
	if c.TryTimeout < time.Second || c.TryTimeout > 20*time.Second {
		report("try_timeout", "is %v; want 1s to 20s", c.TryTimeout)
	}
}

// maxNameBytes keeps a receiver's name fit for a metric's label.
const maxNameBytes = 64

type catalog = plug.Catalog[notify.Notifier, notify.Deps]

// receiver is a name and what tells it.
type receiver struct {
	name     string
	notifier notify.Notifier
}

// receiversOf builds every receiver, or gives every mistake at once.
func receiversOf(config Config, kinds catalog, deps notify.Deps) ([]receiver, error) {
	if len(config.Receivers) == 0 {
		const name = "log"
		deps.Receiver = name
		notifier, err := kinds.Build(name, conf.Raw{}, deps)
		if err != nil {
			return nil, fmt.Errorf("build the default receiver: %w", err)
		}
		return []receiver{{name: name, notifier: notifier}}, nil
	}
	var receivers []receiver
	var problems conf.Problems
	taken := map[string]bool{}
	for _, part := range config.Receivers {
		r, wrong := receiverOf(part, kinds, taken, deps)
		problems = append(problems, wrong...)
		receivers = append(receivers, r)
	}
	if len(problems) > 0 {
		return nil, fault.Mark(fault.Invalid, problems)
	}
	return receivers, nil
}

func receiverOf(part conf.Raw, kinds catalog, taken map[string]bool, deps notify.Deps) (receiver, conf.Problems) {
	fields := reflect.New(shapeOf(kinds)).Elem()
	if err := part.Decode(fields.Addr().Interface()); err != nil {
		return receiver{}, problemsOf(part, err)
	}
	r := receiver{name: fields.Field(0).String()}
	var problems conf.Problems
	switch {
	case r.name == "":
		problems = append(problems, problemsOf(part, part.Problem("has no name"))...)
	case len(r.name) > maxNameBytes:
		problems = append(problems, problemsOf(part, part.Problem("has a name of %d bytes; at most %d", len(r.name), maxNameBytes))...)
	case taken[r.name]:
		problems = append(problems, problemsOf(part, part.Problem("is the second receiver with the name %q", r.name))...)
	}
	taken[r.name] = true
	var named []string
	for i, kind := range kinds {
		settings := fields.Field(i + 1).Interface().(conf.Raw)
		if settings == (conf.Raw{}) {
			continue
		}
		named = append(named, kind.Name)
		deps.Receiver = r.name
		notifier, err := kinds.Build(kind.Name, settings, deps)
		if err != nil {
			problems = append(problems, problemsOf(settings, err)...)
		}
		r.notifier = notifier
	}
	switch {
	case len(named) == 0:
		problems = append(problems, problemsOf(part, part.Problem("has no kind; want one of %s", strings.Join(kinds.Names(), ", ")))...)
	case len(named) > 1:
		problems = append(problems, problemsOf(part, part.Problem("has the kinds %s; want one", strings.Join(named, " and ")))...)
	}
	return r, problems
}

// shapeOf is the struct that one receiver is decoded into: its name, then a
// part for each kind. It is made from the catalogue so that an unknown or
// repeated key is found like everywhere else.
func shapeOf(kinds catalog) reflect.Type {
	fields := []reflect.StructField{{Name: "Name", Type: reflect.TypeFor[string](), Tag: `yaml:"name"`}}
	for i, kind := range kinds {
		fields = append(fields, reflect.StructField{
			Name: fmt.Sprintf("Kind%d", i),
			Type: reflect.TypeFor[conf.Raw](),
			Tag:  reflect.StructTag(fmt.Sprintf("yaml:%q", kind.Name)),
		})
	}
	return reflect.StructOf(fields)
}

// problemsOf gives the mistakes in an error; one that names none is a mistake
// at the part.
func problemsOf(part conf.Raw, err error) conf.Problems {
	if problems, ok := errors.AsType[conf.Problems](err); ok {
		return problems
	}
	problems, _ := errors.AsType[conf.Problems](part.Problem("%v", err))
	return problems
}
