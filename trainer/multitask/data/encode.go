package data

import (
	"errors"
	"math"
	"slices"
	"strconv"

	"github.com/vigil-ml/vigil/internal/fault"
)

const (
	// maxWords bounds what a column of words becomes; rarer ones are all zeros.
	maxWords   = 256
	maxClasses = 4096
)

// encoder turns a column's text into numbers.
type encoder struct {
	column          string
	words           []string // one input each; none: the column holds numbers
	mean, deviation float64
}

// encoderOf learns from some rows what a column holds.
func encoderOf(name string, column []string, rows []int) encoder {
	e := encoder{column: name}
	var ok bool
	if e.mean, e.deviation, ok = moments(column, rows); ok {
		return e
	}
	seen := map[string]int{}
	for _, row := range rows {
		if column[row] != "" {
			seen[column[row]]++
		}
	}
	for word := range seen {
		e.words = append(e.words, word)
	}
	slices.SortFunc(e.words, func(a, b string) int {
		if seen[a] != seen[b] {
			return seen[b] - seen[a]
		}
		if a < b {
			return -1
		}
		return 1
	})
	e.words = e.words[:min(len(e.words), maxWords)]
	return e
}

// moments gives mean and deviation of a column of numbers; a constant one has the
// deviation 1. It tells whether all that is there is numbers.
func moments(column []string, rows []int) (mean, deviation float64, ok bool) {
	square, count := 0.0, 0.0
	for _, row := range rows {
		x, ok := parse(column[row])
		switch {
		case !ok:
			return 0, 0, false
		case math.IsNaN(x):
			continue
		}
		count++
		off := x - mean
		mean += off / count // Welford: no large sums
		square += off * (x - mean)
	}
	if count == 0 {
		return 0, 1, false
	}
	deviation = math.Sqrt(square / count)
	if deviation == 0 {
		deviation = 1
	}
	return mean, deviation, true
}

// parse reads a cell as a number: NaN where there is none, which is also what
// one that is not finite counts as. It tells whether the cell is no word.
func parse(text string) (x float64, ok bool) {
	if text == "" {
		return math.NaN(), true
	}
	x, err := strconv.ParseFloat(text, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return math.NaN(), false
	}
	if math.IsInf(x, 0) {
		x = math.NaN()
	}
	return x, true
}

func (e encoder) width() int { return max(1, len(e.words)) }

// put writes a value's numbers. What is not there, or was not seen before, is 0:
// the mean, or no word.
func (e encoder) put(into []float32, text string) {
	if e.words != nil {
		if i := slices.Index(e.words, text); i >= 0 {
			into[i] = 1
		}
		return
	}
	if x, _ := parse(text); x == x {
		into[0] = float32((x - e.mean) / e.deviation)
	}
}

// targetOf learns from some rows what a task is to predict.
func targetOf(w Wanted, column []string, rows []int) (Target, error) {
	t := Target{Name: w.Name, Outputs: 1, Unit: 1}
	if !w.Classes {
		var ok bool
		if t.Mean, t.Unit, ok = moments(column, rows); !ok {
			return t, fault.New(fault.Invalid, "task %q: column %q does not hold numbers", w.Name, w.Column)
		}
		return t, nil
	}
	for _, row := range rows {
		if column[row] != "" {
			t.Labels = append(t.Labels, column[row])
		}
	}
	slices.Sort(t.Labels)
	t.Labels = slices.Clip(slices.Compact(t.Labels))
	if t.Classes = len(t.Labels); t.Classes < 2 || t.Classes > maxClasses {
		return t, fault.New(fault.Invalid, "task %q: column %q has %d classes; want 2 to %d", w.Name, w.Column, t.Classes, maxClasses)
	}
	return t, nil
}

// encodeTarget gives a column's labels or values: -1 and NaN where it has none.
func encodeTarget(t Target, column []string, rows []int) (labels []int32, values []float32) {
	if t.Classes > 0 {
		labels = make([]int32, len(rows))
	} else {
		values = make([]float32, len(rows))
	}
	for i, row := range rows {
		text := ""
		if column != nil {
			text = column[row]
		}
		if labels != nil {
			labels[i] = -1
			if at, ok := slices.BinarySearch(t.Labels, text); ok {
				labels[i] = int32(at)
			}
			continue
		}
		x, _ := parse(text)
		values[i] = float32((x - t.Mean) / t.Unit)
	}
	return labels, values
}
