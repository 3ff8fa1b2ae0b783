package logline

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/trainer"
)

// say gives what was found as one line.
func say(f Found) string {
	if f.Evaluation != nil {
		return fmt.Sprintf("%s evaluation at %d: loss %g", f.Format, f.At, f.Evaluation.Loss.Value)
	}
	text := fmt.Sprintf("%s step %d: loss %g", f.Format, f.Step.Step, f.Step.Loss.Value)
	for _, m := range []struct {
		name  string
		value trainer.Measured[float64]
	}{{"norm", f.Step.GradientNorm}, {"lr", f.Step.LearningRate}} {
		if m.value.Known {
			text += fmt.Sprintf(", %s %g", m.name, m.value.Value)
		}
	}
	if f.Step.Samples.Known {
		text += fmt.Sprintf(", %d samples", f.Step.Samples.Value)
	}
	if f.Step.StepTime.Known {
		text += fmt.Sprintf(", %v", f.Step.StepTime.Value.Round(10*time.Microsecond))
	}
	return text
}

// read gives what a file's lines say; the file is written in parts of an odd
// size, as a pipe gives it.
func read(t *testing.T, name string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	r := NewReader(func(f Found) { got = append(got, say(f)) })
	w := r.Stream()
	for len(text) > 0 {
		n := min(37, len(text))
		if _, err := w.Write(text[:n]); err != nil {
			t.Fatal(err)
		}
		text = text[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r.Close()
	return got
}

// TestRealLogs: what programs really printed. The expectations are read off
// the files by hand.
func TestRealLogs(t *testing.T) {
	for name, want := range map[string][]string{
		"nanogpt.log": {
			"nanogpt evaluation at 0: loss 10.9209",
			"nanogpt step 1: loss 10.9118, 27.48856s",
			"nanogpt step 41: loss 6.2081, 48.67ms",
			"nanogpt step 81: loss 4.5387, 49.66ms",
			"nanogpt step 121: loss 4.0706, 48.02ms",
			"nanogpt step 19961: loss 1.8257, 49.94ms",
			"nanogpt evaluation at 20000: loss 1.742",
			"nanogpt step 20001: loss 1.7301, 5.98559s",
		},
		"torchtitan.log": {
			"torchtitan step 1: loss 8.0277, norm 1.4604",
			"torchtitan step 2: loss 7.7082, norm 1.5585",
			"torchtitan step 1: loss 12.2417",
			"torchtitan step 10: loss 9.8821",
		},
		"megatron.log": {
			"megatron step 1: loss 10.43863, norm 26.203, lr 6.976744e-08, 128 samples, 19.1388s",
			"megatron step 2: loss 10.44022, norm 26.305, lr 1.395349e-07, 128 samples, 12.9361s",
			"megatron step 6930: loss 9.121927, norm 283384.13, lr 6e-05, 96 samples, 18.5641s",
			"megatron evaluation at 7000: loss 6.18888",
		},
		"transformers-5.log": {
			"transformers step 5: loss 0.695, norm 0.2992, lr 0.00092",
			"transformers step 10: loss 0.6916, norm 0.216, lr 0.00082",
			"transformers step 15: loss 0.6854, norm 0.2314, lr 0.00072",
			"transformers step 20: loss 0.6909, norm 0.6776, lr 0.00062",
			"transformers evaluation at 20: loss 0.6753",
			"transformers step 25: loss 0.6701, norm 0.5661, lr 0.00052",
		},
		"lightning.log": {
			"tqdm step 7: loss 0.627", "tqdm step 14: loss 0.486", "tqdm step 21: loss 0.36",
			"tqdm step 28: loss 0.361", "tqdm step 35: loss 0.278", "tqdm step 42: loss 0.267",
			"tqdm step 49: loss 0.285", "tqdm step 56: loss 0.269", "tqdm step 63: loss 0.335",
		},
		"transformers-4.log": {
			"transformers step 1: loss 3.2363, norm 1.2117664813995361, lr 0.00019984",
			"transformers step 2: loss 3.1007, norm 0.7599466443061829, lr 0.00019968",
			"transformers step 3: loss 2.8482, norm 1.2890647649765015, lr 0.00019952000000000001",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(want, read(t, name)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLines(t *testing.T) {
	for line, want := range map[string]string{
		"iter 7: loss nan, time 1.00ms, mfu 1.00%":                                         "nanogpt step 8: loss NaN, 1ms",
		"\x1b[31mstep: 12\x1b[0m  \x1b[32mloss:  inf\x1b[0m  grad_norm: nan  memory: 1GiB": "torchtitan step 12: loss +Inf, norm NaN",
		" iteration 5/ 10 | lm loss: NaN | grad norm: inf |":                               "megatron step 5: loss NaN, norm +Inf",
		" iteration 5/ 10 | consumed samples: 1 | number of skipped iterations: 1 |":       "",
		"{'loss': '0.5', 'grad_norm': 'nan', 'learning_rate': '1e-05', 'epoch': '1.5'}":    "transformers step 1: loss 0.5, norm NaN, lr 1e-05",
		"{'loss': 1.5, 'epoch': 0.4, 'step': 12}":                                          "transformers step 12: loss 1.5",
		"{'eval_loss': 0.25, 'eval_accuracy': 0.75, 'epoch': 1.0}":                         "transformers evaluation at 0: loss 0.25",
		"{'loss': 1.5}": "",
		"{'train_runtime': 88.81, 'train_loss': 0.66, 'epoch': 2.6}":                       "",
		"Epoch 2:  10%|█         | 5/50 [00:10<01:13,  5.97it/s, v_num=0, train_loss=0.5]": "tqdm step 105: loss 0.5",
		"Training: 100%|███| 7979/7979 [15:23<00:00,  8.65it/s, loss=0.234]":               "tqdm step 7979: loss 0.234",
		"Epoch 1/500: 100%|██████████| 200/200 [01:38<00:00,  2.02it/s, loss=0.414]":       "tqdm step 200: loss 0.414",
		"Validation DataLoader 0:   5%|▌         | 2/38 [00:00<00:05,  7.16it/s]":          "",
		"  0%|          | 0/153 [00:00<?, ?it/s]":                                          "",
		"the loss of iteration 7 was 3.5, which is a lot":                                  "",
		"step 3: loss is high": "",
		"":                     "",
		"iter 99999999999999999999: loss 1.0, time 1.00ms, mfu 1.00%": "",
		strings.Repeat("{'a': 1, ", 500):                              "",
	} {
		var p Parser
		got := ""
		for _, found := range append(p.Line(line), p.Rest()...) {
			got += say(found)
		}
		if got != want {
			t.Errorf("%.120q: %q, want %q", line, got, want)
		}
	}
}

// TestStepsOfRecordsComeFromTheBar: Transformers' records do not name their step.
func TestStepsOfRecordsComeFromTheBar(t *testing.T) {
	var got []string
	r := NewReader(func(f Found) { got = append(got, say(f)) })
	w := r.Stream()
	_, _ = w.Write([]byte("  0%|          | 0/50 [00:00<?, ?it/s]\r  8%|█         | 4/50 [00:01<00:09,  5.00it/s]\r\n{'loss': 0.75, 'epoch': 0.5}\n" +
		" 10%|█         | 5/50 [00:01<00:09,  5.00it/s]\r{'loss': 0.5, 'epoch': 1.0}\n 20%|██        | 10/50 [00:02<00:08,  5.00it/s]\n" +
		"  0%|          | 0/7 [00:00<?, ?it/s]\r 43%|████      | 3/7 [00:00<00:00, 9.00it/s]\n{'eval_loss': 0.625, 'epoch': 1.0}\n" +
		"{'loss': 0.25, 'epoch': 1.5}"))
	_ = w.Close()
	r.Close()
	want := []string{
		"transformers step 5: loss 0.75", "transformers step 10: loss 0.5", "transformers evaluation at 10: loss 0.625", "transformers step 11: loss 0.25",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestBarsThatBeginAnew: a bar without the epoch's number goes on where the one before ended.
func TestBarsThatBeginAnew(t *testing.T) {
	var p Parser
	var got []int64
	for _, line := range []string{"1/2", "2/2", "1/2", "2/2", "1/2"} {
		for _, f := range p.Line("train:  50%|██ | " + line + " [00:01<00:01, 1.0it/s, loss=0.5]") {
			got = append(got, f.Step.Step)
		}
	}
	if diff := cmp.Diff([]int64{1, 2, 3, 4}, got); diff != "" {
		t.Error(diff)
	}
}

func TestLongLinesAreLeftOut(t *testing.T) {
	n := 0
	w := NewReader(func(Found) { n++ }).Stream()
	line := "iter 1: loss 1.0, time 1.00ms, mfu 1.00%"
	_, _ = w.Write([]byte(strings.Repeat("x", maxLineBytes) + line + "\n" + line + "\n"))
	if n != 1 {
		t.Errorf("%d lines are believed, want the second alone", n)
	}
}

func FuzzWriter(f *testing.F) {
	f.Add([]byte("iter 1: loss 1.0, time 1.00ms, mfu 1.00%\n{'loss': 1, 'epoch': 2}\r"))
	f.Add([]byte("Epoch 2:  10%|█         | 5/50 [00:10<01:13,  5.97it/s, v_num=0, train_loss=0.5]\n"))
	f.Fuzz(func(t *testing.T, output []byte) {
		r := NewReader(func(found Found) {
			if (found.Step == nil) == (found.Evaluation == nil) || found.Format == "" {
				t.Errorf("found %+v", found)
			}
			if found.Step != nil && (found.Step.Step < 0 || found.Step.StepTime.Value < 0 || found.Step.StepTime.Value == math.MinInt64) {
				t.Errorf("step %+v", found.Step)
			}
		})
		w := r.Stream()
		if n, err := w.Write(output); n != len(output) || err != nil {
			t.Errorf("wrote %d of %d: %v", n, len(output), err)
		}
		_ = w.Close()
		r.Close()
	})
}

// TestRecordsAndBarsOnTwoOutputs: Transformers prints its records on one output
// and its bars on the other.
func TestRecordsAndBarsOnTwoOutputs(t *testing.T) {
	var got []string
	r := NewReader(func(f Found) { got = append(got, say(f)) })
	records, bars := r.Stream(), r.Stream()
	_, _ = bars.Write([]byte(" 8%|█         | 4/50 [00:01<00:09,  5.00it/s]\r"))
	_, _ = records.Write([]byte("{'loss': 0.75, 'epoch': 0.5}\n"))
	_, _ = bars.Write([]byte(" 10%|█         | 5/50 [00:01<00:09,  5.00it/s]\r"))
	if diff := cmp.Diff([]string{"transformers step 5: loss 0.75"}, got); diff != "" {
		t.Error(diff)
	}
}
