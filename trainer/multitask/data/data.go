// Package data is what multi-task models learn from: tables from CSV and Parquet
// files, two overlaid handwritten digits, and GradNorm's toy problem; and the
// pipeline that makes batches of them.
//
// Which samples a batch has follows from the seed and the batch's number alone:
// not from how many workers make batches, nor from where training was
// interrupted.
package data

import (
	"fmt"
	"math/rand/v2"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Target is what one task is to predict.
type Target struct {
	Name string
	// Classes is how many labels there are, from 0; 0: the target is numbers.
	Classes int
	// Outputs is the number of those numbers; 1 for a classifier.
	Outputs int
	// Unit is what one of those numbers stands for: what they were divided by.
	Unit float64
	// Labels names classes, where they have names.
	Labels []string
	// Mean is what was taken from the numbers, in their own unit, before they were
	// divided.
	Mean float64
}

// Shape is what a source's samples are like.
type Shape struct {
	Inputs  int
	Targets []Target
	Rows    int // samples of an epoch
	// Encoding is a digest of what the source learnt of its data to make numbers of
	// it; empty: nothing. A model fits no other.
	Encoding string
}

// Batch is samples. A label is -1 and a number is NaN where it is not known.
type Batch struct {
	Rows   int
	Inputs []float32   // row by row
	Labels [][]int     // by task; nil for numbers
	Values [][]float32 // by task, row by row; nil for labels
}

// NewBatch makes room for samples.
func NewBatch(shape Shape, rows int) *Batch {
	b := &Batch{Rows: rows, Inputs: make([]float32, rows*shape.Inputs)}
	for _, target := range shape.Targets {
		labels, values := []int(nil), []float32(nil)
		if target.Classes > 0 {
			labels = make([]int, rows)
		} else {
			values = make([]float32, rows*target.Outputs)
		}
		b.Labels, b.Values = append(b.Labels, labels), append(b.Values, values)
	}
	return b
}

// Cursor is a position in the endless row of training samples.
type Cursor struct {
	Seed   uint64
	Drawn  int64 // samples
	Random rand.PCG
}

// dataStream tells the random numbers of the data from those of the weights.
const dataStream = 2

// NewCursor stands before the first sample.
func NewCursor(seed uint64) Cursor { return Cursor{Seed: seed, Random: *rand.NewPCG(seed, dataStream)} }

// Source gives samples. Fill and Held may be called from several goroutines at a
// time, Draw by one.
type Source interface {
	Shape() Shape
	// Picks is how many numbers name one sample.
	Picks() int
	// Draw names the next samples, as many as picks has room for, and moves the
	// cursor behind them.
	Draw(c *Cursor, picks []int32)
	// Fill fills the first rows of a batch with the samples that were drawn.
	Fill(b *Batch, picks []int32)
	// Held fills a batch with held-out samples from a number on, and tells how many
	// it found.
	Held(b *Batch, from int) int
}

// Config is what users say about the data.
type Config struct {
	// Kind is digits, toy, csv or parquet.
	Kind string `yaml:"kind"`
	// Toy is GradNorm's toy problem, for toy.
	Toy ToyConfig `yaml:"toy"`
	// Table is the file, for csv and parquet.
	Table TableConfig `yaml:"table"`
	// Workers is how many goroutines make batches ahead of the training; 0: the
	// training makes them itself. Prefetch is how many batches are made ahead.
	Workers  int `yaml:"workers"`
	Prefetch int `yaml:"prefetch"`
}

// Defaults is the digits, made as they are needed.
func Defaults() Config {
	return Config{Kind: "digits", Toy: DefaultToy(), Table: TableConfig{HeldOut: 0.2}, Prefetch: 4}
}

const (
	maxWorkers  = 64
	maxPrefetch = 1024
)

// Check reports settings that cannot work.
func (c Config) Check(report func(key, format string, args ...any)) {
	switch c.Kind {
	case "digits", "toy", "csv", "parquet":
	default:
		report("kind", "is %q; want digits, toy, csv or parquet", c.Kind)
	}
	if c.Workers < 0 || c.Workers > maxWorkers {
		report("workers", "is %d; want 0 to %d", c.Workers, maxWorkers)
	}
	if c.Prefetch < 1 || c.Prefetch > maxPrefetch {
		report("prefetch", "is %d; want 1 to %d", c.Prefetch, maxPrefetch)
	}
}

// Wanted is a task's target in a table.
type Wanted struct {
	Name    string
	Column  string
	Classes bool // the column holds classes, not numbers
}

// Open opens the source. Tables have the wanted targets; the other kinds have
// their own. It fails with [fault.Invalid] when the configuration or the file is
// wrong.
func Open(c Config, wanted []Wanted) (Source, error) {
	switch c.Kind {
	case "digits":
		return NewDigits()
	case "toy":
		return NewToy(c.Toy)
	case "csv", "parquet":
		return OpenTable(c.Kind, c.Table, wanted)
	}
	return nil, fmt.Errorf("open data: %w", fault.New(fault.Invalid, "kind is %q; want digits, toy, csv or parquet", c.Kind))
}
