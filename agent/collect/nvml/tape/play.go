//go:build cgo && linux && !nonvml

package tape

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
)

// maxLine bounds a line of a tape.
const maxLine = 1 << 20

// Player answers as a tape says. It is for one goroutine.
type Player struct {
	round   int
	turns   turns
	rounds  int
	entries map[string][]Entry
	devices map[string]nvml.Device
	unknown map[string]bool
}

// Play reads a tape and gives the library that it tells of.
func Play(tape io.Reader) (*Player, nvml.Interface, error) {
	p := &Player{entries: map[string][]Entry{}, devices: map[string]nvml.Device{}, unknown: map[string]bool{}}
	lines := bufio.NewScanner(tape)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		var e Entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, nil, fmt.Errorf("read line %d of tape: %w", n, err)
		}
		p.entries[e.Call] = append(p.entries[e.Call], e)
		p.rounds = max(p.rounds, e.Round+1)
	}
	if err := lines.Err(); err != nil {
		return nil, nil, fmt.Errorf("read tape: %w", err)
	}
	lib := &mock.Interface{}
	p.answer("nvml", reflect.ValueOf(lib))
	lib.ExtensionsFunc = func() nvml.ExtendedInterface {
		extensions := &mock.ExtendedInterface{}
		p.answer("extensions", reflect.ValueOf(extensions))
		return extensions
	}
	return p, lib, nil
}

// Next begins the next round.
func (p *Player) Next() { p.round, p.turns = p.round+1, 0 }

// Rounds is how many rounds the tape has.
func (p *Player) Rounds() int { return p.rounds }

// Unknown is the calls that were made and that the tape does not have; they were
// answered as by a library that has no such function.
func (p *Player) Unknown() map[string]bool { return p.unknown }

// answer sets every function of a mock to one that answers from the tape.
func (p *Player) answer(object string, playing reflect.Value) {
	for method, field := range functions(playing) {
		field.Set(reflect.MakeFunc(field.Type(), func(args []reflect.Value) []reflect.Value {
			name := p.turns.name(object, method, args)
			entry, ok := p.find(name)
			results := make([]reflect.Value, field.Type().NumOut())
			for i := range results {
				results[i] = p.result(name, entry, i, field.Type().Out(i), ok)
			}
			next := len(results)
			for _, arg := range args {
				if written(arg.Type()) && next < len(entry.Out) {
					_ = decode(entry.Out[next], arg) // what cannot be read stays as it is
					next++
				}
			}
			return results
		}))
	}
}

// find gives the answer that holds in this round.
func (p *Player) find(name string) (found Entry, ok bool) {
	for _, e := range p.entries[name] {
		if e.Round <= p.round {
			found, ok = e, true
		}
	}
	if !ok {
		p.unknown[name] = true
	}
	return found, ok
}

func (p *Player) result(name string, entry Entry, i int, t reflect.Type, ok bool) reflect.Value {
	value := reflect.New(t).Elem()
	switch value.Addr().Interface().(type) {
	case *nvml.Device:
		if p.devices[name] == nil {
			device := &mock.Device{}
			p.answer(object(name), reflect.ValueOf(device))
			p.devices[name] = device
		}
		value.Set(reflect.ValueOf(p.devices[name]))
		return value
	case *nvml.GpmSample:
		value.Set(reflect.ValueOf(&mock.GpmSample{FreeFunc: func() nvml.Return { return nvml.SUCCESS }}))
		return value
	case *nvml.Return:
		if !ok {
			value.Set(reflect.ValueOf(nvml.ERROR_FUNCTION_NOT_FOUND))
			return value
		}
	case *error:
		var text *string
		if ok && json.Unmarshal(entry.Out[i], &text) == nil && text == nil {
			return value
		}
		value.Set(reflect.ValueOf(errors.New("not in the tape, or absent")))
		return value
	}
	if ok {
		_ = json.Unmarshal(entry.Out[i], value.Addr().Interface()) // what cannot be read is zero
	}
	return value
}
