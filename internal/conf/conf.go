// Package conf reads configuration files: YAML into the structs that users'
// settings are, with every mistake named at once by file, line and path.
//
// A field is read under the name in its `yaml` tag; a struct that is already
// filled keeps its defaults for what the file leaves out. A key that no field
// has is a mistake. A type may implement [Checker] to check its values.
package conf

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Checker checks the values of a configuration. Check is called after decoding,
// for the outermost struct and for each struct inside it.
type Checker interface {
	// Check reports what is wrong, by the key's name below the struct.
	Check(report func(key, format string, args ...any))
}

// Problem is one mistake in a file.
type Problem struct {
	File string // as it was named
	Line int    // counted from 1; that of the part around it when the key is not in the file, 0 when that is not either
	Path string // for instance "receivers[0].slack.url"
	Text string // what is wrong
}

// String is the problem on one line.
func (p Problem) String() string {
	where := p.File
	if p.Line > 0 {
		where = fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	if p.Path == "" {
		return where + ": " + p.Text
	}
	return where + ": " + p.Path + ": " + p.Text
}

// Problems is every mistake in a file; it is the error that [Load] gives, of
// kind [fault.Invalid].
type Problems []Problem

// Error gives the problems, one a line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}

// Load reads a file into a pointer to a struct that holds the defaults. An
// empty path reads nothing and checks the defaults.
func Load(path string, into any) error {
	if path == "" {
		return Decode("defaults", nil, into)
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fault.WithHint(fault.New(fault.NotFound, "read configuration %s: no such file", path),
			"name a file that exists with --config, or leave it out for the defaults")
	}
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	return Decode(path, data, into)
}

// Decode reads YAML text; name stands for the file in messages.
func Decode(name string, data []byte, into any) error {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return fault.Mark(fault.Invalid, Problems{{File: name, Text: err.Error()}})
	}
	w := walker{file: name}
	return w.read(nodeOf(&doc), "", into)
}

func nodeOf(doc *yaml.Node) *yaml.Node {
	if len(doc.Content) > 0 {
		return doc.Content[0]
	}
	return nil
}

// Raw is a part of a file that is decoded later, when its type is known.
type Raw struct {
	node *yaml.Node
	file string
	path string
}

// RawOf makes a part of a value, as if it had been written in a file.
func RawOf(value any) (Raw, error) {
	node := &yaml.Node{}
	if err := node.Encode(value); err != nil {
		return Raw{}, fmt.Errorf("write setting: %w", err)
	}
	return Raw{node: node}, nil
}

// Decode reads the part into a pointer to a struct that holds the defaults.
func (r Raw) Decode(into any) error {
	w := walker{file: r.file}
	return w.read(r.node, r.path, into)
}

// Problem makes a mistake at this part, of kind [fault.Invalid].
func (r Raw) Problem(format string, args ...any) error {
	p := Problem{File: r.file, Path: r.path, Text: fmt.Sprintf(format, args...)}
	if r.node != nil {
		p.Line = r.node.Line
	}
	return fault.Mark(fault.Invalid, Problems{p})
}

// Join gives the mistakes of several checks of one file as one error, in the
// order of the file; nil when there are none. An error that is not [Problems]
// is given as it is, before all others.
func Join(errs ...error) error {
	var all Problems
	for _, err := range errs {
		problems, ok := errors.AsType[Problems](err)
		if err != nil && !ok {
			return err
		}
		all = append(all, problems...)
	}
	if len(all) == 0 {
		return nil
	}
	slices.SortStableFunc(all, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return fault.Mark(fault.Invalid, all)
}
