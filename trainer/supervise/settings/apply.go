package settings

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/vigil-ml/vigil/trainer/supervise"
)

// Effect is what becomes of a key that is set.
type Effect struct {
	Key   string // "section.key"
	Value string // as it was written
	// By is who does something about it: "supervisor", "agent", "SDK", or
	// "passed on" where it is the training command's to honour.
	By   string
	What string // one clause for a person
}

// Effects is what Apply did, in the order of the file.
type Effects struct {
	List []Effect
	// NeedsEncryption tells that the agent's vault must encrypt: without it the
	// run must not begin.
	NeedsEncryption bool
}

// Who does something about a key.
const (
	bySupervisor = "supervisor"
	byAgent      = "agent"
	bySDK        = "SDK"
	passedOn     = "passed on"
)

// Apply gives every key that is set its effect on a configuration. All keys are
// passed to the command: each as an environment variable, such as
// VIGIL_TRAINING_BATCH_SIZE, and all as the JSON that JSON gives.
func Apply(f File, c *supervise.Config) Effects {
	var all Effects
	for _, key := range keys(f) {
		c.Environment = append(c.Environment, variable(key.name)+"="+key.value)
		effect := Effect{Key: key.name, Value: key.value, By: passedOn, What: "the training command finds it as " + variable(key.name)}
		if do, ok := actions()[key.name]; ok {
			effect.By, effect.What = do(f, c)
		}
		all.List = append(all.List, effect)
	}
	all.NeedsEncryption = f.Security.EncryptCheckpoints != nil && *f.Security.EncryptCheckpoints
	return all
}

// key is one that is set.
type key struct {
	name  string
	value string
}

// keys gives the keys that are set, in the order of the file.
func keys(f File) []key {
	var all []key
	sections := reflect.ValueOf(f)
	for i := range sections.NumField() {
		section := sections.Field(i)
		for j := range section.NumField() {
			value := section.Field(j)
			if value.IsNil() {
				continue
			}
			name := sections.Type().Field(i).Tag.Get("yaml") + "." + section.Type().Field(j).Tag.Get("yaml")
			all = append(all, key{name: name, value: fmt.Sprint(value.Elem().Interface())})
		}
	}
	return all
}

// variable is a key's environment variable.
func variable(name string) string {
	return "VIGIL_" + strings.ToUpper(strings.ReplaceAll(name, ".", "_"))
}

// JSON gives every key that is set, by section, for the training command.
func JSON(f File) ([]byte, error) {
	out := map[string]map[string]any{}
	sections := reflect.ValueOf(f)
	for i := range sections.NumField() {
		section, name := sections.Field(i), sections.Type().Field(i).Tag.Get("yaml")
		for j := range section.NumField() {
			if value := section.Field(j); !value.IsNil() {
				if out[name] == nil {
					out[name] = map[string]any{}
				}
				out[name][section.Type().Field(j).Tag.Get("yaml")] = value.Elem().Interface()
			}
		}
	}
	text, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode settings: %w", err)
	}
	return text, nil
}
