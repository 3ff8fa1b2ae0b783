package score

import (
	"math"
	"math/rand/v2"
	"testing"
)

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-9*max(1, math.Abs(b)) }

// TestBinary compares with values worked out by hand.
func TestBinary(t *testing.T) {
	c := NewClasses(2)
	// Chances of class 1, of which 0.5 is said of one sample of each class.
	for _, sample := range []struct {
		label  int
		chance float32
	}{{1, 0.9}, {1, 0.75}, {0, 0.75}, {1, 0.25}, {0, 0.125}, {0, 0.0625}} {
		c.Add(sample.label, []float32{1 - sample.chance, sample.chance})
	}
	// Right are 0.9, 0.75, 0.125 and 0.0625; of three told two are, of three that
	// are two were told.
	if !near(c.Accuracy(), 4.0/6) || !near(c.F1(), 2.0/3) {
		t.Errorf("accuracy %v, F1 %v", c.Accuracy(), c.F1())
	}
	// Of nine pairs seven are in order and one is tied.
	if want := (7 + 0.5) / 9; !near(c.AUC(), want) {
		t.Errorf("AUC %v, want %v", c.AUC(), want)
	}
}

// TestAUCIsTheChanceOfAPair compares with counting every pair.
func TestAUCIsTheChanceOfAPair(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	const classes, samples = 3, 150
	c, labels, chances := NewClasses(classes), []int{}, [][]float32{}
	for range samples {
		label, one := random.IntN(classes), make([]float32, classes)
		for i := range one {
			one[i] = float32(random.IntN(8)) // many ties
		}
		one[label] += float32(random.IntN(3))
		labels, chances = append(labels, label), append(chances, one)
		c.Add(label, one)
	}
	want := 0.0
	for class := range classes {
		wins, pairs := 0.0, 0.0
		for i := range labels {
			for j := range labels {
				if labels[i] == class && labels[j] != class {
					pairs++
					switch a, b := chances[i][class], chances[j][class]; {
					case a > b:
						wins++
					case a == b:
						wins += 0.5
					}
				}
			}
		}
		want += wins / pairs / classes
	}
	if !near(c.AUC(), want) {
		t.Errorf("AUC %v, want %v", c.AUC(), want)
	}
}

func TestMacroF1LeavesOutWhatIsNotThere(t *testing.T) {
	c := NewClasses(4)
	for _, sample := range [][2]int{{0, 0}, {0, 1}, {1, 1}, {2, 2}} {
		chances := make([]float32, 4)
		chances[sample[1]] = 1
		c.Add(sample[0], chances)
	}
	if want := (2.0/3 + 2.0/3 + 1) / 3; !near(c.F1(), want) {
		t.Errorf("F1 %v, want %v", c.F1(), want)
	}
	if one := NewClasses(2); !math.IsNaN(one.Accuracy()) || !math.IsNaN(one.AUC()) {
		t.Error("without samples nothing is known")
	}
}

func TestNumbers(t *testing.T) {
	var n, perfect, mean Numbers
	for _, truth := range []float64{1, 2, 3, 4} {
		n.Add(truth+0.5*math.Copysign(1, truth-2.5), truth)
		perfect.Add(truth, truth)
		mean.Add(2.5, truth)
	}
	if !near(n.MAE(), 0.5) || !near(n.R2(), 1-1.0/5) || perfect.R2() != 1 || !near(mean.R2(), 0) {
		t.Errorf("MAE %v, R2 %v, %v, %v", n.MAE(), n.R2(), perfect.R2(), mean.R2())
	}
}

func TestDeltaM(t *testing.T) {
	baseline := []Measure{{0.5, true}, {10, false}}
	if got := DeltaM([]Measure{{0.6, true}, {9, false}}, baseline); !near(got, (20+10)/2.0) {
		t.Errorf("both better: %v, want 15", got)
	}
	if got := DeltaM([]Measure{{0.4, true}, {12, false}}, baseline); !near(got, -20) {
		t.Errorf("both worse: %v, want -20", got)
	}
}

func TestInterval(t *testing.T) {
	mean, half := Interval([]float64{1, 2, 3, 4, 5})
	// Deviation sqrt(2.5), t of 4 degrees of freedom 2.776.
	if want := 2.776 * math.Sqrt(2.5/5); !near(mean, 3) || !near(half, want) {
		t.Errorf("%v +- %v, want 3 +- %v", mean, half, want)
	}
	if _, half := Interval([]float64{4}); half != 0 {
		t.Errorf("one value has a width of %v", half)
	}
	if got := student(30); math.Abs(got-2.042) > 0.01 {
		t.Errorf("t of 30 degrees of freedom %v, want 2.042", got)
	}
}
