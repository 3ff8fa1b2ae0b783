package alerting

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/plug"
)

// maxNameBytes keeps a receiver's name fit for a metric's label.
const maxNameBytes = 64

type catalog = plug.Catalog[notify.Notifier, notify.Deps]

// receiver is a name and what tells it.
type receiver struct {
	name     string
	kind     string
	fallback string // who is told in its place; may be empty
	limit    notify.Limit
	notifier notify.Notifier
	deps     notify.Deps
	build    func(notify.Deps) (notify.Notifier, error)
}

// receiversOf builds every receiver, or gives every mistake at once.
func receiversOf(config Config, kinds catalog, deps notify.Deps, memory func(string) notify.Memory) ([]receiver, error) {
	if len(config.Receivers) == 0 {
		deps.Receiver = "log"
		r := receiver{name: deps.Receiver}
		if err := r.make("log", conf.Raw{}, kinds, deps); err != nil {
			return nil, fmt.Errorf("build the default receiver: %w", err)
		}
		return []receiver{r}, nil
	}
	var receivers []receiver
	var problems conf.Problems
	taken := map[string]bool{}
	for _, part := range config.Receivers {
		r, wrong := receiverOf(part, kinds, taken, deps, memory)
		problems = append(problems, wrong...)
		receivers = append(receivers, r)
	}
	for i, r := range receivers {
		if r.fallback == r.name && r.name != "" || r.fallback != "" && !taken[r.fallback] {
			part := config.Receivers[i]
			problems = append(problems, problemsOf(part, part.Problem("has the fallback %q; want another receiver's name", r.fallback))...)
		}
	}
	if len(problems) > 0 {
		return nil, fault.Mark(fault.Invalid, problems)
	}
	return receivers, nil
}

func receiverOf(part conf.Raw, kinds catalog, taken map[string]bool, deps notify.Deps, memory func(string) notify.Memory) (receiver, conf.Problems) {
	fields := reflect.New(shapeOf(kinds)).Elem()
	if err := part.Decode(fields.Addr().Interface()); err != nil {
		return receiver{}, problemsOf(part, err)
	}
	r := receiver{name: fields.Field(0).String(), fallback: fields.Field(1).String()}
	problems := checkName(part, r.name, taken)
	taken[r.name] = true
	deps.Receiver = r.name
	if memory != nil {
		deps.Memory = memory(r.name)
	}
	var named []string
	for i, kind := range kinds {
		settings := fields.Field(i + ownFields).Interface().(conf.Raw)
		if settings == (conf.Raw{}) {
			continue
		}
		named = append(named, kind.Name)
		if err := r.make(kind.Name, settings, kinds, deps); err != nil {
			problems = append(problems, problemsOf(settings, err)...)
		}
	}
	switch {
	case len(named) == 0:
		problems = append(problems, problemsOf(part, part.Problem("has no kind; want one of %s", strings.Join(kinds.Names(), ", ")))...)
	case len(named) > 1:
		problems = append(problems, problemsOf(part, part.Problem("has the kinds %s; want one", strings.Join(named, " and ")))...)
	}
	if limit := fields.Field(2).Interface().(LimitConfig); limit.PerMinute > 0 {
		r.limit = notify.Limit{PerSecond: limit.PerMinute / 60, Burst: limit.Burst}
	}
	return r, problems
}

func checkName(part conf.Raw, name string, taken map[string]bool) conf.Problems {
	switch {
	case name == "":
		return problemsOf(part, part.Problem("has no name"))
	case len(name) > maxNameBytes:
		return problemsOf(part, part.Problem("has a name of %d bytes; at most %d", len(name), maxNameBytes))
	case taken[name]:
		return problemsOf(part, part.Problem("is the second receiver with the name %q", name))
	}
	return nil
}

// make builds the notifier, and keeps how, for a test of it.
func (r *receiver) make(kind string, settings conf.Raw, kinds catalog, deps notify.Deps) (err error) {
	r.kind, r.deps = kind, deps
	r.build = func(deps notify.Deps) (notify.Notifier, error) { return kinds.Build(kind, settings, deps) }
	if r.notifier, err = r.build(deps); err != nil {
		return err
	}
	if limited, ok := r.notifier.(notify.Limited); ok {
		r.limit = limited.Limit()
	}
	return nil
}

// ownFields is how many keys a receiver has besides its kinds.
const ownFields = 3

// shapeOf is the struct that one receiver is decoded into: its own keys, then
// a part for each kind. It is made from the catalogue so that an unknown or
// repeated key is found like everywhere else.
func shapeOf(kinds catalog) reflect.Type {
	fields := []reflect.StructField{
		{Name: "Name", Type: reflect.TypeFor[string](), Tag: `yaml:"name"`},
		{Name: "Fallback", Type: reflect.TypeFor[string](), Tag: `yaml:"fallback"`},
		{Name: "Limit", Type: reflect.TypeFor[LimitConfig](), Tag: `yaml:"limit"`},
	}
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
