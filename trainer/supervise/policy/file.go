package policy

import (
	"fmt"
	"os"
	"time"

	"github.com/vigil-ml/vigil/internal/conf"
)

// file is a configuration as it is written: what a kind leaves out is as the
// defaults have it.
type file struct {
	MaxRestarts    int                 `yaml:"max_restarts"`
	SameFailures   int                 `yaml:"same_failures"`
	SameTracebacks int                 `yaml:"same_tracebacks"`
	Steady         time.Duration       `yaml:"steady"`
	Kinds          map[string]conf.Raw `yaml:"kinds"`
}

// Load reads a file over the defaults. Its mistakes are told together, as
// [conf.Problems]; an empty path gives the defaults.
func Load(path string) (Config, error) {
	if path == "" {
		return Defaults(), nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("read recovery policies: %w", err)
	}
	return Decode(path, data)
}

// Decode reads YAML text over the defaults; name stands for the file in
// messages.
func Decode(name string, data []byte) (Config, error) {
	c := Defaults()
	f := file{MaxRestarts: c.MaxRestarts, SameFailures: c.SameFailures, SameTracebacks: c.SameTracebacks, Steady: c.Steady}
	errs := []error{conf.Decode(name, data, &f)}
	for kind, raw := range f.Kinds {
		p, ok := c.Kinds[kind]
		if !ok {
			errs = append(errs, raw.Problem("there is no such kind of failure"))
			continue
		}
		errs = append(errs, raw.Decode(&p))
		c.Kinds[kind] = p
	}
	if err := conf.Join(errs...); err != nil {
		return Config{}, err
	}
	c.MaxRestarts, c.SameFailures, c.SameTracebacks, c.Steady = f.MaxRestarts, f.SameFailures, f.SameTracebacks, f.Steady
	return c, c.Error()
}
