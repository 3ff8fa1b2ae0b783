// Package score says how well a model predicts: accuracy, F1 and AUC of
// classifiers, mean absolute error and R2 of regressions, and how several tasks
// together compare with a baseline.
package score

import (
	"math"
	"slices"
)

// Classes counts what a classifier says. The zero value is of no use; make one
// with NewClasses.
type Classes struct {
	classes int
	counts  []int       // by class and by what it was taken for
	chances [][]float32 // by class: what each sample's chance of it was said to be
	labels  []int32
}

// NewClasses makes counts of that many classes.
func NewClasses(classes int) *Classes {
	return &Classes{classes: classes, counts: make([]int, classes*classes), chances: make([][]float32, classes)}
}

// Add takes in a sample: its class, and the chances of all.
func (c *Classes) Add(label int, chances []float32) {
	told := 0
	for i, chance := range chances {
		c.chances[i] = append(c.chances[i], chance)
		if chance > chances[told] {
			told = i
		}
	}
	c.labels = append(c.labels, int32(label))
	c.counts[label*c.classes+told]++
}

// Accuracy is the share of the samples whose class was told; NaN without any.
func (c *Classes) Accuracy() float64 {
	right := 0
	for i := range c.classes {
		right += c.counts[i*c.classes+i]
	}
	return float64(right) / float64(len(c.labels))
}

// F1 is the harmonic mean of precision and recall: of class 1 where there are
// two, and otherwise the mean over the classes that were there or were told.
func (c *Classes) F1() float64 {
	if c.classes == 2 {
		f1, _ := c.f1(1)
		return f1
	}
	sum, count := 0.0, 0.0
	for i := range c.classes {
		if f1, ok := c.f1(i); ok {
			sum += f1
			count++
		}
	}
	return sum / count
}

func (c *Classes) f1(class int) (float64, bool) {
	was, told := 0, 0
	for i := range c.classes {
		was += c.counts[class*c.classes+i]
		told += c.counts[i*c.classes+class]
	}
	if was+told == 0 {
		return 0, false
	}
	return 2 * float64(c.counts[class*c.classes+class]) / float64(was+told), true
}

// AUC is the area under the ROC curve: the chance that a sample of class 1 is
// taken for it rather than one of class 0, ties counting half; with more than two
// classes the mean over those that some samples have and some have not. NaN
// where there is no such class.
func (c *Classes) AUC() float64 {
	first := 0
	if c.classes == 2 {
		first = 1
	}
	sum, count := 0.0, 0.0
	for i := first; i < c.classes; i++ {
		if auc := c.auc(int32(i)); !math.IsNaN(auc) {
			sum += auc
			count++
		}
	}
	return sum / count
}

// auc is the rank sum of Mann and Whitney.
func (c *Classes) auc(class int32) float64 {
	order := make([]int, len(c.labels))
	for i := range order {
		order[i] = i
	}
	chances := c.chances[class]
	slices.SortFunc(order, func(a, b int) int {
		switch {
		case chances[a] < chances[b]:
			return -1
		case chances[a] > chances[b]:
			return 1
		}
		return 0
	})
	ranks, positive := 0.0, 0.0
	for i := 0; i < len(order); {
		end := i
		for end < len(order) && chances[order[end]] == chances[order[i]] {
			end++
		}
		rank := float64(i+end+1) / 2 // of all that are tied, from 1
		for ; i < end; i++ {
			if c.labels[order[i]] == class {
				ranks += rank
				positive++
			}
		}
	}
	return (ranks - positive*(positive+1)/2) / (positive * (float64(len(order)) - positive))
}

// Numbers adds up how far a regression is off. The zero value is ready.
type Numbers struct {
	count, absolute, squared float64
	mean, spread             float64 // of what should have been told
}

// Add takes in a number that was told and the one that it should have been.
func (n *Numbers) Add(told, truth float64) {
	n.count++
	n.absolute += math.Abs(told - truth)
	n.squared += (told - truth) * (told - truth)
	off := truth - n.mean
	n.mean += off / n.count
	n.spread += off * (truth - n.mean)
}

// MAE is the mean absolute error; NaN without samples.
func (n *Numbers) MAE() float64 { return n.absolute / n.count }

// R2 is the share of the variance that is explained: 1 is perfect, 0 no better
// than the mean. Without a variance it is NaN or infinite.
func (n *Numbers) R2() float64 { return 1 - n.squared/n.spread }

// Measure is a number by which models are compared.
type Measure struct {
	Value        float64
	HigherBetter bool
}

// DeltaM is by how many percent measures are better than a baseline's, on
// average over tasks (Maninis et al., CVPR 2019, equation 4, where a positive
// one is better too; papers after it often turn its sign).
func DeltaM(measures, baseline []Measure) float64 {
	sum := 0.0
	for i, m := range measures {
		gain := (m.Value - baseline[i].Value) / math.Abs(baseline[i].Value)
		if !m.HigherBetter {
			gain = -gain
		}
		sum += 100 * gain / float64(len(measures))
	}
	return sum
}

// Interval gives the mean of values and half the width of its 95 % confidence
// interval by Student's t; 0 for one value.
func Interval(values []float64) (mean, half float64) {
	n := float64(len(values))
	for _, value := range values {
		mean += value / n
	}
	if n < 2 {
		return mean, 0
	}
	square := 0.0
	for _, value := range values {
		square += (value - mean) * (value - mean)
	}
	return mean, student(len(values)-1) * math.Sqrt(square/(n-1)/n)
}

// student is the 97.5 % quantile of Student's t.
func student(freedom int) float64 {
	table := [...]float64{12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131}
	if freedom <= len(table) {
		return table[freedom-1]
	}
	return 1.96 + 2.5/float64(freedom) // within 0.01 from there on
}
