package logline

import (
	"math"
	"regexp"
	"strings"

	"github.com/vigil-ml/vigil/trainer"
)

// nanoGPT counts iterations from 0; the step that finished is one more.
func nanoGPT(_ *Parser, line string) ([]Found, bool) {
	re := nanoGPTStep()
	if m := re.FindStringSubmatch(line); m != nil {
		step, ok := whole(group(re, m, "step"))
		return one(&trainer.StepReport{
			Step: step + 1, Loss: number(group(re, m, "loss")), StepTime: milliseconds(group(re, m, "ms")),
		}), ok
	}
	return evaluation(nanoGPTEvaluation(), line)
}

// one is a single step.
func one(step *trainer.StepReport) []Found { return []Found{{Step: step}} }

// evaluation reads a line whose pattern names the step and the loss.
func evaluation(re *regexp.Regexp, line string) ([]Found, bool) {
	m := re.FindStringSubmatch(line)
	if m == nil {
		return nil, false
	}
	step, ok := whole(group(re, m, "step"))
	return []Found{{At: step, Evaluation: &trainer.Evaluation{Loss: number(group(re, m, "loss"))}}}, ok
}

func torchtitan(_ *Parser, line string) ([]Found, bool) {
	re := torchtitanStep()
	m := re.FindStringSubmatch(line)
	if m == nil {
		return nil, false
	}
	step, ok := whole(group(re, m, "step"))
	return one(&trainer.StepReport{
		Step: step, Loss: number(group(re, m, "loss")), GradientNorm: number(group(re, m, "norm")),
	}), ok
}

func megatron(_ *Parser, line string) ([]Found, bool) {
	if found, ok := evaluation(megatronEvaluation(), line); ok {
		return found, true
	}
	re := megatronStep()
	m := re.FindStringSubmatch(line)
	if m == nil {
		return nil, false
	}
	step, ok := whole(group(re, m, "step"))
	report := &trainer.StepReport{Step: step}
	for field := range strings.SplitSeq(group(re, m, "fields"), "|") {
		name, value, _ := strings.Cut(field, ":")
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(name) {
		case "lm loss":
			report.Loss = number(value)
		case "grad norm":
			report.GradientNorm = number(value)
		case "learning rate":
			report.LearningRate = number(value)
		case "global batch size":
			if samples, ok := whole(value); ok {
				report.Samples = trainer.Known(samples)
			}
		case "elapsed time per iteration (ms)":
			report.StepTime = milliseconds(value)
		}
	}
	// A skipped iteration has no loss: that is how fp16 finds its scale.
	return one(report), ok && report.Loss.Known
}

// transformers reads the records that the Trainer prints. They do not name the
// step: the bar that it prints anew behind each does, or else they are counted.
func transformers(p *Parser, line string) ([]Found, bool) {
	record := transformersRecord().FindString(line)
	if record == "" {
		return nil, false
	}
	re, values := transformersField(), map[string]trainer.Measured[float64]{}
	for _, m := range re.FindAllStringSubmatch(record, -1) {
		values[group(re, m, "name")] = number(group(re, m, "value"))
	}
	if !values["epoch"].Known {
		return nil, false // some other mapping
	}
	if loss := values["eval_loss"]; loss.Known {
		before := p.Rest()
		return append(before, Found{At: p.last, Evaluation: &trainer.Evaluation{Loss: loss, Metrics: rest(values)}}), true
	}
	if !values["loss"].Known {
		return p.Rest(), true // its summary at the end
	}
	found := p.Rest()
	step := Found{Format: "transformers", Step: &trainer.StepReport{
		Step: max(p.bar.n, p.last+1), Loss: values["loss"], GradientNorm: values["grad_norm"], LearningRate: values["learning_rate"],
	}}
	if named := values["step"]; named.Known && named.Value > 0 && named.Value < math.MaxInt64 {
		step.Step.Step = int64(named.Value)
	} else if p.bar.total != "" {
		p.held = &step
		return found, true
	}
	return append(found, step), true
}

// rest gives the measures of an evaluation by their names without eval_.
func rest(values map[string]trainer.Measured[float64]) map[string]float64 {
	metrics := map[string]float64{}
	for name, value := range values {
		name, of := strings.CutPrefix(name, "eval_")
		if of && name != "loss" && value.Known {
			metrics[name] = value.Value
		}
	}
	return metrics
}

// bar is a tqdm bar, over all epochs.
type bar struct {
	label  string // without its digits
	total  string
	n      int64
	before int64 // steps of the epochs that are complete
}

// tqdm reads a bar such as Lightning's. Of several bars the one that was first
// is the training's, until another shows a loss. A bar is often printed with
// the loss of the step before and then again with the step's own: the last
// word counts.
func tqdm(p *Parser, line string) ([]Found, bool) {
	re := tqdmBar()
	m := re.FindStringSubmatch(line)
	if m == nil {
		return nil, false
	}
	n, ok := whole(group(re, m, "n"))
	loss := lossOf(group(re, m, "fields"))
	if !ok || !p.bar.is(group(re, m, "label"), group(re, m, "total"), loss.Known, p.last) {
		return nil, true // another bar, such as an evaluation's
	}
	p.bar.move(group(re, m, "label"), n)
	held := p.held
	if held != nil && held.Format == "transformers" {
		held.Step.Step = max(p.bar.n, held.Step.Step)
		return p.Rest(), true
	}
	if held != nil && held.Step.Step == p.bar.n {
		if loss.Known {
			held.Step.Loss = loss
		}
		return nil, true
	}
	found := p.Rest()
	if n > 0 && loss.Known && p.bar.n > p.last {
		p.held = &Found{Format: "tqdm", Step: &trainer.StepReport{Step: p.bar.n, Loss: loss}}
	}
	return found, true
}

// is tells whether a bar is the training's, and takes one for it when there is
// none yet, or when it shows a loss; last is the last step that is known.
func (b *bar) is(label, total string, loss bool, last int64) bool {
	name := strings.Map(dropDigits, label)
	if b.label == name && b.total == total {
		return true
	}
	if b.total != "" && !loss {
		return false
	}
	*b = bar{label: name, total: total, before: last, n: last}
	return true
}

// move takes in how far the bar is.
func (b *bar) move(label string, n int64) {
	of, known := whole(b.total)
	switch epoch, named := epochOf(label); {
	case named && known:
		b.before = epoch * of
	case n+b.before < b.n: // it begins anew
		b.before = b.n
	}
	b.n = b.before + n
}

func dropDigits(r rune) rune {
	if r >= '0' && r <= '9' {
		return -1
	}
	return r
}

// lossOf gives the training loss among a bar's fields; that of the step where
// there are several.
func lossOf(fields string) trainer.Measured[float64] {
	re, values := tqdmField(), map[string]string{}
	for _, m := range re.FindAllStringSubmatch(fields, -1) {
		values[strings.ToLower(group(re, m, "name"))] = group(re, m, "value")
	}
	for _, name := range []string{"train_loss_step", "loss_step", "train_loss", "loss", "train/loss"} {
		if text, ok := values[name]; ok {
			return number(text)
		}
	}
	return trainer.Measured[float64]{}
}

// epochOf reads the number of a label such as "Epoch 3"; Lightning counts from 0.
func epochOf(label string) (int64, bool) {
	re := epochWord()
	m := re.FindStringSubmatch(label)
	if m == nil || !strings.HasPrefix(label, "Epoch ") || strings.Contains(label, "/") {
		return 0, false
	}
	return whole(group(re, m, "epoch"))
}
