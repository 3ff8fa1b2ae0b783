// Package logline reads what training programs print about their loss, so that
// a run is watched whose program knows nothing of Vigil. It knows the lines of
// nanoGPT, Transformers' Trainer, Lightning and other tqdm bars, Megatron-LM, and
// torchtitan.
//
// A line is believed only in its whole form: prose with the word loss in it is
// no report. What a program prints may be wrong or rounded, and is often not
// every step; it is a view from outside.
package logline

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/trainer"
)

// Found is what a line says.
type Found struct {
	Format     string              // whose form it has, for instance "megatron"
	Step       *trainer.StepReport // of a training step; nil when it is none
	Evaluation *trainer.Evaluation // on held-out data; nil when it is none
	At         int64               // the step of the evaluation
}

// Parser reads a program's lines one after another. It remembers what it needs
// to tell the step of lines that do not name it. It is for one goroutine.
type Parser struct {
	last int64 // greatest step so far
	bar  bar
	held *Found // a report of a step that the next bar may correct
}

// format reads a line, and gives false when it is none of its own.
type format struct {
	name string
	read func(p *Parser, line string) ([]Found, bool)
}

// formats are tried in this order; the stricter ones first.
func formats() []format {
	return []format{
		{"megatron", megatron}, {"torchtitan", torchtitan}, {"nanogpt", nanoGPT}, {"transformers", transformers}, {"tqdm", tqdm},
	}
}

// Line reads a line without its end and gives what is known now: mostly nothing
// or one thing. What a later line may correct waits for that.
func (p *Parser) Line(line string) []Found {
	line = strings.TrimSpace(plain(line))
	if line == "" {
		return nil
	}
	for _, f := range formats() {
		found, ok := f.read(p, line)
		if !ok {
			continue
		}
		for i := range found {
			if found[i].Format == "" {
				found[i].Format = f.name
			}
			if found[i].Step != nil {
				p.last = max(p.last, found[i].Step.Step)
			}
		}
		return found
	}
	return nil
}

// Rest gives what waits for a line that did not come.
func (p *Parser) Rest() []Found {
	if p.held == nil {
		return nil
	}
	found := *p.held
	p.held = nil
	p.last = max(p.last, found.Step.Step)
	return []Found{found}
}

// plain takes terminal control sequences out of a line.
func plain(line string) string {
	if !strings.Contains(line, "\x1b") {
		return line
	}
	return controlSequence().ReplaceAllString(line, "")
}

// number reads a float as programs print it: 1,234.5, 1e-4, nan, inf. Unknown
// is what is none.
func number(text string) trainer.Measured[float64] {
	value, err := strconv.ParseFloat(strings.ReplaceAll(strings.Trim(text, `'"`), ",", ""), 64)
	if err != nil && !math.IsInf(value, 0) {
		return trainer.Measured[float64]{}
	}
	return trainer.Known(value)
}

func whole(text string) (int64, bool) {
	n, err := strconv.ParseInt(strings.ReplaceAll(text, ",", ""), 10, 64)
	return n, err == nil && n >= 0 && n <= math.MaxInt32 // so that products of two are in range
}

func milliseconds(text string) trainer.Measured[time.Duration] {
	ms := number(text)
	if !ms.Known || !(ms.Value >= 0 && ms.Value < math.MaxInt64/float64(time.Millisecond)) {
		return trainer.Measured[time.Duration]{}
	}
	return trainer.Known(time.Duration(ms.Value * float64(time.Millisecond)))
}

// group gives a named part of a match.
func group(re *regexp.Regexp, match []string, name string) string { return match[re.SubexpIndex(name)] }
