//go:build cgo && linux && !nonvml

package tape

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// Entry is what one call answered, from a round on until the next entry for the
// same call.
type Entry struct {
	Round int `json:"round"`
	// Call is the object, the method and the arguments, for instance
	// "gpu0.GetTemperature(0)".
	Call string `json:"call"`
	// Out is the results, and behind them what the call wrote into its arguments.
	Out []json.RawMessage `json:"out"`
}

// figure is the part of nvml.GpmMetric that says something. The value is text
// since it may be no number.
type figure struct {
	ID     uint32
	Return uint32
	Value  string
}

// written tells whether a call can write into an argument of this type.
func written(t reflect.Type) bool { return t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer }

// encode makes JSON of a result or an argument. Objects such as devices are
// null: the player makes them.
func encode(v reflect.Value) (json.RawMessage, error) {
	switch value := v.Interface().(type) {
	case nil:
		return json.RawMessage("null"), nil
	case error:
		if v.Kind() != reflect.Int32 { // as a Return is
			return json.Marshal(value.Error())
		}
	case *nvml.GpmMetricsGetType:
		var figures []figure
		for _, m := range value.Metrics[:value.NumMetrics] {
			figures = append(figures, figure{m.MetricId, m.NvmlReturn, strconv.FormatFloat(m.Value, 'g', -1, 64)})
		}
		return json.Marshal(figures)
	}
	if v.Kind() == reflect.Interface {
		return json.RawMessage("null"), nil
	}
	return json.Marshal(v.Interface())
}

// decode reads into a value of the type that encode was given.
func decode(data json.RawMessage, into reflect.Value) error {
	if query, ok := into.Interface().(*nvml.GpmMetricsGetType); ok && query != nil {
		var figures []figure
		if err := json.Unmarshal(data, &figures); err != nil {
			return fmt.Errorf("read GPM figures: %w", err)
		}
		for i, f := range figures[:min(len(figures), len(query.Metrics))] {
			value, err := strconv.ParseFloat(f.Value, 64)
			if err != nil {
				return fmt.Errorf("read GPM figures: %w", err)
			}
			query.Metrics[i].MetricId, query.Metrics[i].NvmlReturn, query.Metrics[i].Value = f.ID, f.Return, value
		}
		return nil
	}
	switch into.Kind() {
	case reflect.Slice: // an argument that was written into
		read := reflect.New(into.Type())
		if err := json.Unmarshal(data, read.Interface()); err != nil {
			return err
		}
		reflect.Copy(into, read.Elem())
		return nil
	case reflect.Pointer:
		return json.Unmarshal(data, into.Interface())
	default:
		return json.Unmarshal(data, into.Addr().Interface())
	}
}

// turns numbers the calls of a round that their arguments do not tell apart:
// samples of GPM have no name.
type turns int

func (t *turns) name(object, method string, args []reflect.Value) string {
	name := call(object, method, args)
	if method != "GpmMetricsGet" {
		return name
	}
	*t++
	return fmt.Sprintf("%s#%d", name, *t)
}

// call names a call by what it was made on and with.
func call(object, method string, args []reflect.Value) string {
	name := object + "." + method + "("
	for i, arg := range args {
		if i > 0 {
			name += ","
		}
		switch v := arg.Interface().(type) {
		case []nvml.FieldValue:
			for _, f := range v {
				name += fmt.Sprintf(" %d/%d", f.FieldId, f.ScopeId)
			}
		default:
			if arg.Kind() == reflect.Interface || written(arg.Type()) {
				name += "_"
				continue
			}
			name += fmt.Sprint(v)
		}
	}
	return name + ")"
}
