package multitask

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/internal/testkit"
)

const (
	benchRows    = 8192
	benchBatch   = 256
	benchRounds  = 5
	benchSeconds = 2
)

// BenchmarkBesidePyTorch prints steps a second of the same network, batch and
// optimizer here and in PyTorch, on one thread each, in turns. Ratios are of
// neighbours, so that a busy machine slows both.
func BenchmarkBesidePyTorch(b *testing.B) {
	python := testkit.Torch(b)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	training := benchTraining(b)
	for range 30 {
		training.Compute()
		training.Apply(1)
	}
	allocations := testing.AllocsPerRun(50, func() { training.Compute(); training.Apply(1) })
	var ours, theirs, ratios []float64
	version := ""
	for range benchRounds {
		here := stepsASecond(training)
		out, err := exec.CommandContext(b.Context(), python, "-W", "ignore", "testdata/bench.py",
			fmt.Sprint(benchRows), fmt.Sprint(benchBatch), fmt.Sprint(benchSeconds)).Output()
		if err != nil {
			b.Fatal(err)
		}
		there := 0.0
		if _, err := fmt.Sscan(string(out), &there, &version); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		ours, theirs, ratios = append(ours, here), append(theirs, there), append(ratios, here/there)
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	slices.Sort(ratios)
	b.Logf("\n32-64-64, two heads of 10, batch %d, Adam, one thread, medians of %d rounds of %d s in turns:\n"+
		"  vigil-trainer    %6.0f steps/s, %.0f allocations a step\n  PyTorch %-8s %6.0f steps/s\n  ratio            %6.2f (%.2f to %.2f)",
		benchBatch, benchRounds, benchSeconds, ours[benchRounds/2], allocations, version, theirs[benchRounds/2],
		ratios[benchRounds/2], ratios[0], ratios[benchRounds-1])
}

func stepsASecond(training *Training) float64 {
	steps, began := 0, time.Now()
	for time.Since(began) < benchSeconds*time.Second {
		training.Compute()
		training.Apply(1)
		steps++
	}
	return float64(steps) / time.Since(began).Seconds()
}

// benchTraining is the network on random rows.
func benchTraining(b *testing.B) *Training {
	b.Helper()
	random := rand.New(rand.NewPCG(1, 1))
	var text strings.Builder
	for i := range 32 {
		_, _ = fmt.Fprintf(&text, "x%d,", i)
	}
	text.WriteString("one,two\n")
	for range benchRows * 5 / 4 {
		for range 32 {
			_, _ = fmt.Fprintf(&text, "%.4f,", random.NormFloat64())
		}
		_, _ = fmt.Fprintf(&text, "%d,%d\n", random.IntN(10), random.IntN(10))
	}
	path := filepath.Join(b.TempDir(), "t.csv")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	return begin(b, func(c *Config) {
		c.Batch, c.Model.Hidden = benchBatch, []int{64, 64}
		c.Data.Kind, c.Data.Table.Path, c.Data.Table.HeldOut = "csv", path, 0.2
		c.Tasks = []TaskConfig{{Name: "one", Kind: classification}, {Name: "two", Kind: classification}}
	})
}
