package main

import (
	"bytes"
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"

	"github.com/vigil-ml/vigil/internal/fault"
)

// format is how answers are written.
type format string

const (
	formatTable format = "table"
	formatWide  format = "wide"
	formatJSON  format = "json"
	formatYAML  format = "yaml"
)

// String, Set and Type make a format a flag.
func (f *format) String() string { return string(*f) }

// Type names the flag's value in the help.
func (f *format) Type() string { return "format" }

// Set takes a format by its name.
func (f *format) Set(name string) error {
	switch format(name) {
	case formatTable, formatWide, formatJSON, formatYAML:
		*f = format(name)
		return nil
	default:
		return fmt.Errorf("want table, wide, json or yaml")
	}
}

// forPeople tells whether answers are for people rather than programs.
func (f format) forPeople() bool { return f == formatTable || f == formatWide }

// show writes an answer: as a document, or as the text that people makes.
func (a *app) show(answer proto.Message, people func(*page)) error {
	if !a.output.forPeople() {
		return a.document(answer, false)
	}
	clean(answer)
	p := newPage(a.width, a.color(), a.output == formatWide)
	people(p)
	_, err := a.stdout.Write(p.bytes())
	return fault.Mark(fault.Unavailable, err)
}

// showNext writes one answer of many: a JSON document a line, YAML documents
// with a separator between, or a person's line.
func (a *app) showNext(answer proto.Message, people func(*page)) error {
	if !a.output.forPeople() {
		return a.document(answer, true)
	}
	return a.show(answer, people)
}

func (a *app) document(answer proto.Message, oneOfMany bool) error {
	text, err := marshal(answer, a.output, oneOfMany)
	if err != nil {
		return err
	}
	_, err = a.stdout.Write(text)
	return fault.Mark(fault.Unavailable, err)
}

// marshal writes an answer as a document, with the names and defaults that the
// API's own JSON has.
func marshal(answer proto.Message, as format, oneOfMany bool) ([]byte, error) {
	text, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(answer)
	if err != nil {
		return nil, fmt.Errorf("write answer as JSON: %w", err)
	}
	if as == formatYAML {
		if text, err = yaml.JSONToYAML(text); err != nil {
			return nil, fmt.Errorf("write answer as YAML: %w", err)
		}
		if oneOfMany {
			text = append([]byte("---\n"), text...)
		}
		return text, nil
	}
	// protojson varies its spaces on purpose, so that nobody relies on them.
	var out bytes.Buffer
	if oneOfMany {
		err = json.Compact(&out, text)
	} else {
		err = json.Indent(&out, text, "", "  ")
	}
	if err != nil {
		return nil, fmt.Errorf("lay out JSON: %w", err)
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}
