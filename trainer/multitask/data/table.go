package data

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/vigil-ml/vigil/internal/fault"
)

// TableConfig is what users say about a table.
type TableConfig struct {
	// Path is the file: CSV with a header, or Parquet with flat columns.
	Path string `yaml:"path"`
	// Features are the columns to learn from; none: all but the tasks'.
	Features []string `yaml:"features"`
	// HeldOut is the share of the rows that is held out, always the same ones; over
	// 0, below 1. HeldOutPath, another file, takes its place.
	HeldOut     float64 `yaml:"held_out"`
	HeldOutPath string  `yaml:"held_out_path"`
}

// splitSeed decides which rows of a table are held out.
const splitSeed = 7

// Table is a table as numbers: features with mean 0 and variance 1, or one of
// several where they are words; numbers to predict likewise. Means, variances and
// words are those of the rows to learn on.
type Table struct {
	kind     string
	features []encoder
	wanted   []Wanted
	targets  []Target
	inputs   int
	learn    block
	held     block
	epochs   epochs
}

// block is encoded rows.
type block struct {
	rows   int
	inputs []float32
	labels [][]int32
	values [][]float32
}

// OpenTable reads a table. It fails with [fault.NotFound] when there is no file
// and with [fault.Invalid] when something in it or in the configuration is wrong.
func OpenTable(kind string, c TableConfig, wanted []Wanted) (*Table, error) {
	if len(wanted) == 0 {
		return nil, fault.New(fault.Invalid, "open table: there are no tasks")
	}
	if c.HeldOutPath == "" && !(c.HeldOut > 0 && c.HeldOut < 1) {
		return nil, fault.New(fault.Invalid, "open table: held_out is %v; want over 0 and below 1", c.HeldOut)
	}
	file, err := read(kind, c.Path)
	if err != nil {
		return nil, err
	}
	t := &Table{kind: kind, wanted: wanted}
	order := rand.New(rand.NewPCG(splitSeed, splitSeed)).Perm(file.rows)
	held := 0
	if c.HeldOutPath == "" {
		held = min(file.rows-1, max(1, int(math.Round(c.HeldOut*float64(file.rows)))))
	}
	slices.Sort(order[held:])
	slices.Sort(order[:held])
	if err := t.learnEncoding(file, c.Features, order[held:]); err != nil {
		return nil, fmt.Errorf("read %s: %w", c.Path, err)
	}
	if t.learn, err = t.encode(file, order[held:], true); err != nil {
		return nil, err
	}
	if held > 0 {
		t.held, err = t.encode(file, order[:held], true)
	} else {
		t.held, err = t.load(c.HeldOutPath, true)
	}
	t.epochs.rows = t.learn.rows
	return t, err
}

// Holding gives the same table with the rows of another file held out, for
// evaluation and prediction. Without the columns of the tasks their targets are
// not known.
func (t *Table) Holding(path string) (*Table, error) {
	held, err := t.load(path, false)
	if err != nil {
		return nil, err
	}
	other := *t
	other.held = held
	return &other, nil
}

func (t *Table) load(path string, needTargets bool) (block, error) {
	file, err := read(t.kind, path)
	if err != nil {
		return block{}, err
	}
	order := make([]int, file.rows)
	for i := range order {
		order[i] = i
	}
	return t.encode(file, order, needTargets)
}

// learnEncoding looks at the rows to learn on.
func (t *Table) learnEncoding(file *raw, features []string, rows []int) error {
	for _, w := range t.wanted {
		column := file.column(w.Column)
		if column == nil {
			return fault.New(fault.Invalid, "task %q: there is no column %q", w.Name, w.Column)
		}
		target, err := targetOf(w, column, rows)
		if err != nil {
			return err
		}
		t.targets = append(t.targets, target)
	}
	if len(features) == 0 {
		for _, column := range file.columns {
			if !slices.ContainsFunc(t.wanted, func(w Wanted) bool { return w.Column == column }) {
				features = append(features, column)
			}
		}
	}
	for _, feature := range features {
		column := file.column(feature)
		if column == nil {
			return fault.New(fault.Invalid, "there is no column %q to learn from", feature)
		}
		e := encoderOf(feature, column, rows)
		t.features = append(t.features, e)
		t.inputs += e.width()
	}
	if t.inputs == 0 {
		return fault.New(fault.Invalid, "no column is left to learn from")
	}
	return nil
}

// encode turns rows of a file into numbers.
func (t *Table) encode(file *raw, rows []int, needTargets bool) (block, error) {
	b := block{rows: len(rows), inputs: make([]float32, len(rows)*t.inputs)}
	at := 0
	for _, e := range t.features {
		column := file.column(e.column)
		if column == nil {
			return block{}, fault.New(fault.Invalid, "read %s: there is no column %q", file.path, e.column)
		}
		for i, row := range rows {
			e.put(b.inputs[i*t.inputs+at:], column[row])
		}
		at += e.width()
	}
	for i, w := range t.wanted {
		column := file.column(w.Column)
		if column == nil && needTargets {
			return block{}, fault.New(fault.Invalid, "read %s: there is no column %q", file.path, w.Column)
		}
		labels, values := encodeTarget(t.targets[i], column, rows)
		b.labels, b.values = append(b.labels, labels), append(b.values, values)
	}
	return b, nil
}

// Shape has an epoch see every row once.
func (t *Table) Shape() Shape {
	return Shape{Inputs: t.inputs, Targets: t.targets, Rows: t.learn.rows, Encoding: t.encoding()}
}

// encoding is a digest of what was learnt of the columns.
func (t *Table) encoding() string {
	sum := sha256.New()
	for _, e := range t.features {
		_, _ = fmt.Fprintf(sum, "%q %q %x %x\n", e.column, e.words, e.mean, e.deviation) // a hash does not fail
	}
	for i, target := range t.targets {
		_, _ = fmt.Fprintf(sum, "%q %q %x %x\n", t.wanted[i].Column, target.Labels, target.Mean, target.Unit)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// Picks is a row.
func (*Table) Picks() int { return 1 }

// Draw draws the rows of one epoch after the other.
func (t *Table) Draw(c *Cursor, picks []int32) { t.epochs.draw(c, picks) }

// Fill copies rows.
func (t *Table) Fill(b *Batch, picks []int32) {
	for i, row := range picks {
		t.learn.copyRow(b, i, int(row), t.inputs)
	}
}

// Held copies rows that are held out.
func (t *Table) Held(b *Batch, from int) int {
	rows := max(0, min(b.Rows, t.held.rows-from))
	for i := range rows {
		t.held.copyRow(b, i, from+i, t.inputs)
	}
	return rows
}

func (b *block) copyRow(into *Batch, to, row, inputs int) {
	copy(into.Inputs[to*inputs:(to+1)*inputs], b.inputs[row*inputs:])
	for k := range b.labels {
		if into.Labels[k] != nil {
			into.Labels[k][to] = int(b.labels[k][row])
		} else {
			into.Values[k][to] = b.values[k][row]
		}
	}
}
