package study

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/trainer/multitask"
)

func TestParse(t *testing.T) {
	got, err := Parse("equal; gradnorm:{alpha: 0.12} ;famo")
	want := []Method{{Name: "equal"}, {"gradnorm", "{alpha: 0.12}"}, {Name: "famo"}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	all, err := Parse("all")
	if err != nil || len(all) != 13 || all[0].Name != "equal" {
		t.Errorf("all is %v, %v", all, err)
	}
	if _, err := Parse("equal;;"); !fault.Is(err, fault.Invalid) {
		t.Errorf("a method without a name: %v", err)
	}
}

// toy is a small toy problem.
func toy() multitask.Plan {
	plan := multitask.DefaultPlan()
	plan.Steps = 30
	plan.Training.Data.Kind, plan.Training.Data.Toy.Samples, plan.Training.Data.Toy.Held = "toy", 400, 100
	plan.Training.Model.Hidden = []int{40}
	return plan
}

// TestEpochsTakeThePlaceOfSteps, as they do when the plan is trained.
func TestEpochsTakeThePlaceOfSteps(t *testing.T) {
	config := Config{Plan: toy(), Methods: []Method{{Name: "equal"}}, Seeds: 1, Points: 1}
	config.Plan.Epochs = 2
	all, err := Run(t.Context(), config, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	run := all[0].Runs[0]
	if last := run[len(run)-1].Step; last != 14 { // twice 400 samples, 64 a step
		t.Errorf("%d steps were made, want 14", last)
	}
}

// TestRun: the runs of a method differ by seed and only by that, the grid's best
// takes part, and what is told is what came out.
func TestRun(t *testing.T) {
	config := Config{Plan: toy(), Methods: []Method{{Name: "equal"}, {Name: "geometric"}}, Seeds: 2, Grid: []float64{1, 0.01}, Points: 3}
	var told []string
	all, err := Run(t.Context(), config, func(line string) { told = append(told, line) })
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 3 || all[2].Method.Name != "static" || len(told) != 2+3*2 {
		t.Fatalf("%d outcomes, the last of %v; told %q", len(all), all[len(all)-1].Method, told)
	}
	again, err := Run(t.Context(), config, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	final := func(run []multitask.Point) float64 { return Normalized(run, len(run)-1) }
	for i, o := range all {
		values := o.Final(final)
		if diff := cmp.Diff(values, again[i].Final(final)); diff != "" || values[0] == values[1] {
			t.Errorf("%s ends at %v: %s", o.Method, values, diff)
		}
		if len(o.Runs[0]) != 4 || math.Abs(Normalized(o.Runs[0], 0)-2) > 1e-9 {
			t.Errorf("%s has %d points, the first %v", o.Method, len(o.Runs[0]), Normalized(o.Runs[0], 0))
		}
	}
	var table, figure bytes.Buffer
	if err := Table(&table, all); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(table.String(), "\n"); len(lines) != 6 || !strings.Contains(lines[2], "| `equal` | ") || !strings.HasSuffix(lines[2], "|  |") {
		t.Errorf("table:\n%s", table.String())
	}
	if err := Figure(&figure, "a < b", all); err != nil {
		t.Fatal(err)
	}
	lines := 0
	for d := xml.NewDecoder(&figure); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if start, ok := token.(xml.StartElement); ok && start.Name.Local == "polyline" {
			lines++
		}
	}
	if lines != 3 {
		t.Errorf("the figure has %d lines", lines)
	}
}

func TestWrongComparisons(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"seeds":    func(c *Config) { c.Seeds = 0 },
		"methods":  func(c *Config) { c.Methods = nil },
		"steps":    func(c *Config) { c.Plan.Steps = 0 },
		"method":   func(c *Config) { c.Methods[0].Name = "gradnrom" },
		"settings": func(c *Config) { c.Methods[0].Settings = "{speed: 1}" },
		"plan":     func(c *Config) { c.Plan.Training.Batch = 0 },
	} {
		config := Config{Plan: toy(), Methods: []Method{{Name: "equal"}}, Seeds: 1, Points: 1}
		change(&config)
		if _, err := Run(t.Context(), config, func(string) {}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: Run = %v", name, err)
		}
	}
}

// TestGradNormHelpsTheSmallTask is the toy experiment in short: after some steps
// the task with the small scale has learnt more than with equal weights.
func TestGradNormHelpsTheSmallTask(t *testing.T) {
	plan := toy()
	plan.Steps, plan.Training.Data.Toy.Samples, plan.Training.LearningRate = 300, 6000, 3e-3
	plan.Training.Model.Hidden = []int{100, 100, 100, 100}
	all, err := Run(t.Context(), Config{Plan: plan, Methods: []Method{{Name: "equal"}, {"gradnorm", "{alpha: 0.12}"}}, Seeds: 1, Points: 1}, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	last := func(o Outcome) float64 {
		return o.Runs[0][len(o.Runs[0])-1].Score.Losses[0] / o.Runs[0][0].Score.Losses[0]
	}
	if equal, gradnorm := last(all[0]), last(all[1]); !(gradnorm < 0.9*equal) {
		t.Errorf("of the small task's loss equal weights leave %.3f, GradNorm %.3f", equal, gradnorm)
	}
}
