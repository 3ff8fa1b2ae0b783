// Package plug is the one shape of an extension point: a catalogue of kinds,
// each a name, a default configuration and a constructor.
//
// An extension is one file that declares `var Kind = plug.Of("slack", Config{},
// New)` and one line in its owner's builtin.go.
package plug

import (
	"strings"

	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/fault"
)

// Kind makes things of type T from a user's configuration and what code
// injects.
type Kind[T, D any] struct {
	// Name is the key in configuration files.
	Name string
	// Defaults gives a pointer to a fresh default configuration.
	Defaults func() any
	// Build makes one; the configuration is a pointer as Defaults gives it.
	Build func(config any, deps D) (T, error)
}

// Of makes a kind from a default configuration and a constructor.
func Of[T, D, C any](name string, defaults C, build func(C, D) (T, error)) Kind[T, D] {
	return Kind[T, D]{
		Name: name,
		Defaults: func() any {
			config := defaults
			return &config
		},
		Build: func(config any, deps D) (T, error) { return build(*config.(*C), deps) },
	}
}

// Catalog is the kinds of one extension point.
type Catalog[T, D any] []Kind[T, D]

// Names gives the kinds' names in order.
func (c Catalog[T, D]) Names() []string {
	names := make([]string, len(c))
	for i, kind := range c {
		names[i] = kind.Name
	}
	return names
}

// Build makes a thing of the named kind from a part of a configuration file.
// It fails with [fault.Invalid] when there is no such kind or the part is
// wrong.
func (c Catalog[T, D]) Build(name string, config conf.Raw, deps D) (T, error) {
	for _, kind := range c {
		if kind.Name != name {
			continue
		}
		settings := kind.Defaults()
		if err := config.Decode(settings); err != nil {
			var none T
			return none, err
		}
		return kind.Build(settings, deps)
	}
	var none T
	return none, fault.New(fault.Invalid, "kind %q is not known; there are %s", name, strings.Join(c.Names(), ", "))
}
