package multitask

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/trainer/balance"
	"github.com/vigil-ml/vigil/trainer/multitask/optimize"
)

// varied is trainings with every part of the model, the optimizers and the
// pipeline in one of them at least.
func varied() map[string]func(*Config) {
	return map[string]func(*Config){
		"plain": func(*Config) {},
		"norm, dropout, sgd": func(c *Config) {
			c.Model.BatchNorm, c.Model.Dropout, c.Optimizer.Kind, c.LearningRate = true, 0.3, optimize.SGD, 0.02
		},
		"residual, adamw, clip, workers": func(c *Config) {
			c.Model.Trunk, c.Model.Hidden, c.Model.Dropout = "residual", []int{96, 96, 48}, 0.2
			c.Optimizer.Kind, c.Optimizer.WeightDecay, c.ClipNorm, c.Data.Workers = optimize.AdamW, 0.01, 0.5, 3
		},
		"mmoe, accumulate, gradnorm": func(c *Config) {
			c.Model.Trunk, c.Model.Hidden, c.Model.BatchNorm, c.Model.Experts = "mmoe", []int{40, 24}, true, 3
			c.Accumulate, c.Batch, c.Balance.Method, c.Data.Workers = 3, 16, "gradnorm", 2
			c.Tasks = []TaskConfig{{Name: "ink", Hidden: []int{8}}}
		},
		"mmoe, nash": func(c *Config) {
			c.Model.Trunk, c.Model.Hidden, c.Model.Dropout, c.Balance.Method = "mmoe", []int{40}, 0.1, "nash"
		},
		"norm, uncertainty": func(c *Config) { c.Model.BatchNorm, c.Balance.Method = true, "uncertainty" },
	}
}

// TestEveryVarietyGoesOnExactly: wherever it is interrupted, a training with
// dropout, running statistics, learnt weights and batches made ahead ends with
// the same bits as one that was not; and it learns.
func TestEveryVarietyGoesOnExactly(t *testing.T) {
	for name, change := range varied() {
		t.Run(name, func(t *testing.T) {
			const steps = 40
			straight := working(t, change)
			first := train(t, straight, 10)
			last := train(t, straight, steps-10)
			if !(last < first) {
				t.Errorf("mean loss went from %.3f to %.3f", first, last)
			}
			for _, stop := range []int{1, 17} {
				before := working(t, change)
				train(t, before, stop)
				before.Evaluate()
				before.Poison()
				if before.NonFinite(before.Compute()) == nil { // a step that was begun and never applied
					t.Fatal("the poison was not met")
				}
				state := stateOf(t, before)
				after := working(t, func(c *Config) { change(c); c.Seed = 77 })
				train(t, after, 3)
				if err := after.Restore(state); err != nil {
					t.Fatal(err)
				}
				train(t, after, steps-stop)
				if after.Digest() != straight.Digest() || after.DataPosition() != straight.DataPosition() {
					t.Errorf("interrupted at %d: %s, want %s", stop, after.Digest(), straight.Digest())
				}
				if got, want := fmt.Sprint(after.outcome.Weights), fmt.Sprint(straight.outcome.Weights); got != want {
					t.Errorf("interrupted at %d: weights %s, want %s", stop, got, want)
				}
			}
		})
	}
}

// working is a training with its workers.
func working(t testing.TB, change func(*Config)) *Training {
	t.Helper()
	training := begin(t, change)
	group := life.NewGroup(context.Background())
	end := training.Work(group)
	t.Cleanup(func() {
		end()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
	return training
}

// TestWorkersChangeNothing: how many make batches does not matter.
func TestWorkersChangeNothing(t *testing.T) {
	var digests []string
	for _, workers := range []int{0, 1, 5} {
		training := working(t, func(c *Config) { c.Data.Workers, c.Data.Prefetch = workers, 3 })
		train(t, training, 25)
		training.SkipBatch()
		train(t, training, 10)
		digests = append(digests, training.Digest())
	}
	if digests[0] != digests[1] || digests[0] != digests[2] {
		t.Errorf("0, 1 and 5 workers give %v", digests)
	}
}

// TestVariedGradients compares a sample of every tensor's gradient with central
// differences of the loss.
func TestVariedGradients(t *testing.T) {
	for name, change := range varied() {
		t.Run(name, func(t *testing.T) {
			training := begin(t, func(c *Config) {
				change(c)
				c.Balance.Method, c.Balance.Settings = "equal", conf.Raw{} // so that the loss is the sum
			})
			train(t, training, 12)
			for name, of := range gradientsOff(training, 7) {
				// The differences themselves are off by the loss' rounding over the width, and
				// where a unit passes 0 in between.
				if !(of.off < 0.04*of.length+0.004) {
					t.Errorf("%s: the gradient is off by %.4f of %.4f", name, of.off, of.length)
				}
			}
		})
	}
}

// TestWeightsAreApplied: static weights give the gradient of the weighted sum, and
// a method that combines gradients gives that of the trunk the weighted sum of
// the tasks', and leaves the heads theirs.
func TestWeightsAreApplied(t *testing.T) {
	gradient := func(method, settings string) *Training {
		training := begin(t, func(c *Config) { c.Balance = balanced(t, method, settings) })
		training.Compute()
		return training
	}
	only := []*Training{
		gradient("static", "{weights: {left: 1, right: 0, ink: 0}}"),
		gradient("static", "{weights: {left: 0, right: 1, ink: 0}}"),
		gradient("static", "{weights: {left: 0, right: 0, ink: 1}}"),
	}
	for name, training := range map[string]*Training{
		"static": gradient("static", "{weights: {left: 0.5, right: 2, ink: 3}}"), "nash": gradient("nash", "{}"), "mgda": gradient("mgda", "{}"),
	} {
		shared := training.net.Shared
		for i, got := range training.net.Gradients {
			want := 0.0
			for k, w := range training.outcome.Weights {
				if i >= shared && training.balancer.Needs() == balance.Gram {
					w = 1
				}
				want += w * float64(only[k].net.Gradients[i])
			}
			if math.Abs(float64(got)-want) > 1e-5*max(1, math.Abs(want)) {
				t.Fatalf("%s: gradient %d is %v, want %v", name, i, got, want)
			}
		}
	}
}

func balanced(t testing.TB, method, settings string) BalanceConfig {
	t.Helper()
	config := BalanceConfig{}
	if err := conf.Decode("balance.yaml", []byte("method: "+method+"\nsettings: "+settings+"\n"), &config); err != nil {
		t.Fatal(err)
	}
	return config
}

// TestGradNormSeesNorms holds the norms that the method gets to the gradient of
// the last shared layer, and the cosine to -1..1.
func TestGradNormSeesNorms(t *testing.T) {
	training := begin(t, func(c *Config) { c.Balance.Method = "gradnorm" })
	o := training.Compute()
	for i, name := range []string{"left", "right", "ink"} {
		alone := begin(t, func(c *Config) {
			c.Balance = balanced(t, "static", "{weights: {left: 0, right: 0, ink: 0, "+name+": 1}}")
		})
		alone.Compute()
		sum := 0.0
		for _, g := range alone.room.last[0].Of(alone.net.Gradients) {
			sum += float64(g) * float64(g)
		}
		if got, want := training.room.norms[i], math.Sqrt(sum); math.Abs(got-want) > 1e-5*want {
			t.Errorf("norm of %s is %v, want %v", name, got, want)
		}
	}
	if !o.Cosine.Known || o.Cosine.Value < -1 || o.Cosine.Value > 1 {
		t.Errorf("cosine %v", o.Cosine)
	}
}

func TestNoVarietyAllocates(t *testing.T) {
	for name, change := range varied() {
		training := working(t, change)
		train(t, training, 12)
		if n := testing.AllocsPerRun(20, func() { training.Compute(); training.applyMeasured(1) }); n > 0 {
			t.Errorf("%s: a step allocates %v times", name, n)
		}
	}
	for _, method := range balance.Methods().Names() {
		training := begin(t, func(c *Config) { c.Balance.Method = method })
		train(t, training, 12)
		if n := testing.AllocsPerRun(20, func() { training.Compute(); training.applyMeasured(1) }); n > 0 {
			t.Errorf("%s: a step allocates %v times", method, n)
		}
	}
}

func TestAccumulatedBatchesAreOneStep(t *testing.T) {
	// Of the same samples, one batch of 64 and four of 16 give the same gradient
	// where nothing depends on the batch.
	one, four := begin(t, nil), begin(t, func(c *Config) { c.Batch, c.Accumulate = 16, 4 })
	a, b := one.Compute(), four.Compute()
	if math.Abs(a.Losses.Total()-b.Losses.Total()) > 1e-5 || one.EpochSteps() != four.EpochSteps() {
		t.Errorf("losses %v and %v", a.Losses, b.Losses)
	}
	for i, g := range one.net.Gradients {
		if math.Abs(float64(g-four.net.Gradients[i])) > 1e-6 {
			t.Fatalf("gradient %d: %v and %v", i, g, four.net.Gradients[i])
		}
	}
}

func TestEarlyStopping(t *testing.T) {
	training := begin(t, func(c *Config) { c.Stop = StopConfig{Patience: 2, MinImprovement: 0.1} })
	for _, c := range []struct {
		loss    float64
		stopped bool
	}{{2, false}, {1.9, false}, {1.7, false}, {1.6, false}, {1.55, true}} {
		training.note(Score{Losses: Losses{c.loss}})
		if training.Stopped() != c.stopped {
			t.Fatalf("after a loss of %v: stopped is %v", c.loss, training.Stopped())
		}
	}
	again := begin(t, func(c *Config) { c.Stop = StopConfig{Patience: 2, MinImprovement: 0.1} })
	if err := again.Restore(stateOf(t, training)); err != nil || !again.Stopped() {
		t.Errorf("after a resume it goes on: %v", err)
	}
}

// TestAModelIsAskedWhateverItsBatchesWere: only who trains on needs the same.
func TestAModelIsAskedWhateverItsBatchesWere(t *testing.T) {
	training := begin(t, func(c *Config) { c.Batch, c.Accumulate = 32, 2 })
	train(t, training, 3)
	other := begin(t, nil)
	if err := other.Load(stateOf(t, training)); err != nil {
		t.Fatal(err)
	}
	if got, want := other.Evaluate(), training.Evaluate(); got.Tasks[0] != want.Tasks[0] || other.Digest() != training.Digest() {
		t.Errorf("the loaded model scores %v, the trained one %v", got, want)
	}
}

// TestAStateOfAnotherTableIsRefused: a model means the columns' means, words and
// classes that it was trained with.
func TestAStateOfAnotherTableIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "table.csv")
	table := func(row string) *Training {
		text := "size,kind,price\n" + strings.Repeat("1,a,2\n3,b,5\n", 20) + row
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return begin(t, func(c *Config) {
			c.Data.Kind, c.Data.Table.Path, c.Data.Table.HeldOutPath = "csv", path, path
			c.Tasks = []TaskConfig{{Name: "price", Kind: regression}}
		})
	}
	state := stateOf(t, table("4,a,5\n"))
	if err := table("4,a,5\n").Restore(state); err != nil {
		t.Errorf("the same table: %v", err)
	}
	for name, row := range map[string]string{"mean": "9,a,5\n", "word order": "4,b,5\n", "target": "4,a,9\n"} {
		other := table(row)
		for what, read := range map[string]func([]byte) error{"Restore": other.Restore, "Load": other.Load} {
			if err := read(state); !fault.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
				t.Errorf("another %s: %s gives %v", name, what, err)
			}
		}
	}
}

func TestAStateOfAnotherKindIsRefused(t *testing.T) {
	state := stateOf(t, begin(t, nil))
	for name, change := range map[string]func(*Config){
		"method":    func(c *Config) { c.Balance.Method = "nash" },
		"optimizer": func(c *Config) { c.Optimizer.Kind = optimize.SGD },
		"model":     func(c *Config) { c.Model.BatchNorm = true },
		"passes":    func(c *Config) { c.Accumulate = 2 },
	} {
		other := begin(t, change)
		if err := other.Restore(state); !fault.Is(err, fault.Invalid) {
			t.Errorf("another %s: %v", name, err)
		}
	}
}
