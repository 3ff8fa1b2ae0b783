package detect

// Window is the last few values of a series, in the order in which they came
// and in that of their size, so that median, minimum and maximum cost nothing.
// Adding costs one binary search and a move of at most the window. Values are
// kept to 24 bits, which is finer than anything that is measured. Make one with
// [NewWindow]; it allocates nothing afterwards.
type Window struct {
	values []float32 // a ring
	sorted []float32 // the same values, ascending
	next   int
}

// NewWindow makes an empty window of a size of at least 1.
func NewWindow(size int) *Window {
	return &Window{values: make([]float32, size), sorted: make([]float32, 0, size)}
}

// Add adds a value that is not NaN and drops the oldest where the window is
// full.
func (w *Window) Add(value float64) {
	x := float32(value)
	if len(w.sorted) == len(w.values) {
		i := search(w.sorted, w.values[w.next])
		copy(w.sorted[i:], w.sorted[i+1:])
		w.sorted = w.sorted[:len(w.sorted)-1]
	}
	i := search(w.sorted, x)
	w.sorted = w.sorted[:len(w.sorted)+1]
	copy(w.sorted[i+1:], w.sorted[i:])
	w.sorted[i], w.values[w.next] = x, x
	if w.next++; w.next == len(w.values) {
		w.next = 0
	}
}

// search gives the first place whose value is not below x.
func search(sorted []float32, x float32) int {
	low, high := 0, len(sorted)
	for low < high {
		if middle := (low + high) / 2; sorted[middle] < x {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low
}

// Len is the number of values.
func (w *Window) Len() int { return len(w.sorted) }

// Full tells whether the window has as many values as it can.
func (w *Window) Full() bool { return len(w.sorted) == len(w.values) }

// Median is the median; of an even number, the mean of the middle two. Len must
// not be 0.
func (w *Window) Median() float64 {
	n := len(w.sorted)
	if n%2 == 1 {
		return float64(w.sorted[n/2])
	}
	return (float64(w.sorted[n/2-1]) + float64(w.sorted[n/2])) / 2
}

// Min is the least value; Len must not be 0.
func (w *Window) Min() float64 { return float64(w.sorted[0]) }

// Max is the greatest value; Len must not be 0.
func (w *Window) Max() float64 { return float64(w.sorted[len(w.sorted)-1]) }

// Oldest is the value that the next one drops once the window is full; Len must
// not be 0.
func (w *Window) Oldest() float64 {
	if w.Full() {
		return float64(w.values[w.next])
	}
	return float64(w.values[0])
}

// Above is the number of values over a limit.
func (w *Window) Above(limit float64) int {
	n := 0
	for i := len(w.sorted) - 1; i >= 0 && float64(w.sorted[i]) > limit; i-- {
		n++
	}
	return n
}

// Clear drops all values.
func (w *Window) Clear() { w.sorted, w.next = w.sorted[:0], 0 }
