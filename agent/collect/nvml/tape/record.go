//go:build cgo && linux && !nonvml

package tape

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"reflect"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
)

// Recorder writes what a library answers. It is for one goroutine.
type Recorder struct {
	w       io.Writer
	round   int
	turns   turns
	last    map[string]string
	devices map[string]nvml.Device
	err     error
}

// Record gives a library that passes every call on to another and writes the
// answers to w.
func Record(lib nvml.Interface, w io.Writer) (*Recorder, nvml.Interface) {
	r := &Recorder{w: w, last: map[string]string{}, devices: map[string]nvml.Device{}}
	recording := &mock.Interface{}
	r.wrap("nvml", reflect.ValueOf(lib), reflect.ValueOf(recording))
	recording.ExtensionsFunc = func() nvml.ExtendedInterface {
		extensions := &mock.ExtendedInterface{}
		r.wrap("extensions", reflect.ValueOf(lib.Extensions()), reflect.ValueOf(extensions))
		return extensions
	}
	return r, recording
}

// Next begins the next round: a call may answer another thing in each.
func (r *Recorder) Next() { r.round, r.turns = r.round+1, 0 }

// Err gives the first thing that could not be written.
func (r *Recorder) Err() error { return r.err }

// wrap sets every function of a mock to one that calls the real object.
func (r *Recorder) wrap(object string, real, recording reflect.Value) {
	for method, field := range functions(recording) {
		target := real.MethodByName(method)
		field.Set(reflect.MakeFunc(field.Type(), func(args []reflect.Value) []reflect.Value {
			name := r.turns.name(object, method, args)
			var results []reflect.Value
			if target.Type().IsVariadic() {
				results = target.CallSlice(args)
			} else {
				results = target.Call(args)
			}
			for i, result := range results {
				results[i] = disguise(object, method, r.adopt(name, result))
			}
			for _, arg := range args {
				if written(arg.Type()) {
					results = append(results, arg)
				}
			}
			r.write(name, results)
			return results[:target.Type().NumOut()]
		}))
	}
}

// adopt wraps a device that a call gives, so that calls to it are recorded too.
func (r *Recorder) adopt(name string, result reflect.Value) reflect.Value {
	device, ok := result.Interface().(nvml.Device)
	if !ok {
		return result
	}
	if r.devices[name] == nil {
		recording := &mock.Device{}
		r.wrap(object(name), reflect.ValueOf(device), reflect.ValueOf(recording))
		r.devices[name] = recording
	}
	wrapped := reflect.New(result.Type()).Elem()
	wrapped.Set(reflect.ValueOf(r.devices[name]))
	return wrapped
}

// object names the device that a call gives.
func object(call string) string {
	return strings.NewReplacer("nvml.DeviceGetHandleByIndex(", "gpu", ".GetMigDeviceHandleByIndex(", "-mig", ")", "").Replace(call)
}

// disguise takes out what tells one device from another.
func disguise(object, method string, result reflect.Value) reflect.Value {
	switch value := result.Interface().(type) {
	case string:
		if method == "GetUUID" && value != "" {
			sum := fnv.New32()
			_, _ = sum.Write([]byte(object))
			return reflect.ValueOf(fmt.Sprintf("GPU-%08x-0000-4000-8000-000000000000", sum.Sum32()))
		}
		if method == "GetSerial" || method == "GetBoardPartNumber" {
			return reflect.ValueOf("")
		}
	case nvml.GpuFabricInfo:
		value.ClusterUuid = [16]uint8{}
		return reflect.ValueOf(value)
	}
	return result
}

func (r *Recorder) write(name string, values []reflect.Value) {
	entry := Entry{Round: r.round, Call: name}
	for _, v := range values {
		data, err := encode(v)
		if err != nil {
			data, _ = json.Marshal("cannot be written: " + err.Error())
		}
		entry.Out = append(entry.Out, data)
	}
	said, err := json.Marshal(entry.Out)
	if err == nil && r.last[name] == string(said) {
		return
	}
	r.last[name] = string(said)
	line, err := json.Marshal(entry)
	if err == nil {
		_, err = r.w.Write(append(line, '\n'))
	}
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("record call of NVML: %w", err)
	}
}

// functions gives the function fields of a mock by the method that each is for.
func functions(recording reflect.Value) func(yield func(string, reflect.Value) bool) {
	return func(yield func(string, reflect.Value) bool) {
		for i := range recording.Elem().NumField() {
			method, ok := strings.CutSuffix(recording.Elem().Type().Field(i).Name, "Func")
			if ok && !yield(method, recording.Elem().Field(i)) {
				return
			}
		}
	}
}
