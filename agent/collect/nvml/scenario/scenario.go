// Package scenario is which GPUs a node has: those of its driver, or simulated
// ones with a script of what goes wrong with them and when.
package scenario

import (
	"slices"
	"strconv"
	"strings"

	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/fault"
)

// maxGPUs is more than any node has.
const maxGPUs = 64

// Spec is which GPUs a node has; the zero value is those of the driver.
type Spec struct {
	// Count is how many GPUs are simulated, 1 to 64; 0 when none is.
	Count int
	// Model is theirs, one of [Models].
	Model string
	// Script is the path of a script; empty for GPUs that stay healthy.
	Script string
}

// Models are the models that can be simulated.
func Models() []string { return []string{"A100", "H100", "H200", "B200"} }

// Simulated tells whether the GPUs are simulated.
func (s Spec) Simulated() bool { return s.Count > 0 }

// String is the notation that [Parse] reads.
func (s Spec) String() string {
	if !s.Simulated() {
		return ""
	}
	text := "simulated=" + strconv.Itoa(s.Count) + "x" + s.Model
	if s.Script != "" {
		text += ",script=" + s.Script
	}
	return text
}

// Parse reads what users write: nothing or "driver", or
// "simulated=8xH100,script=PATH", where the script may be left out and the path
// runs to the end. It fails with [fault.Invalid].
func Parse(text string) (Spec, error) {
	if text == "" || text == "driver" {
		return Spec{}, nil
	}
	what, script, scripted := strings.Cut(text, ",")
	gpus, ok := strings.CutPrefix(what, "simulated=")
	number, model, both := strings.Cut(gpus, "x")
	count, err := strconv.Atoi(number)
	if !ok || !both || err != nil {
		return Spec{}, wrong(text, "it is neither driver nor simulated=NxMODEL")
	}
	if count < 1 || count > maxGPUs {
		return Spec{}, wrong(text, "%d GPUs are not between 1 and %d", count, maxGPUs)
	}
	model = strings.ToUpper(model)
	if !slices.Contains(Models(), model) {
		return Spec{}, wrong(text, "there is no model %s; there are %s", model, strings.Join(Models(), ", "))
	}
	spec := Spec{Count: count, Model: model}
	if scripted {
		path, ok := strings.CutPrefix(script, "script=")
		if !ok || path == "" {
			return Spec{}, wrong(text, "want script=PATH behind the comma")
		}
		spec.Script = path
	}
	return spec, nil
}

func wrong(text, format string, args ...any) error {
	return fault.WithHint(fault.New(fault.Invalid, "read gpu %q: "+format, append([]any{text}, args...)...),
		"write for instance simulated=8xH100,script=faults.yaml")
}

// Load reads the script, if there is one, and checks that the GPUs it names
// are there. It fails with [fault.Invalid] or [fault.NotFound].
func (s Spec) Load() (Script, error) {
	script := Script{Version: version}
	if s.Script == "" {
		return script, nil
	}
	if err := conf.Load(s.Script, &script); err != nil {
		return script, err
	}
	for i, e := range script.Events {
		for _, gpu := range e.GPUs {
			if gpu >= s.Count {
				return script, fault.New(fault.Invalid, "%s: events[%d].gpus: there is no GPU %d; the highest is %d", s.Script, i, gpu, s.Count-1)
			}
		}
	}
	return script, nil
}
