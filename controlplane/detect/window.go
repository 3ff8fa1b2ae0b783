package detect

// Window is the last few values of a series, each with its step. Make one with
// [NewWindow]; it allocates nothing afterwards.
type Window struct {
	points []Point
	next   int
	count  int
}

// Point is a value at a step.
type Point struct {
	Step  int64
	Value float64
}

// NewWindow makes an empty window of a size of at least 1.
func NewWindow(size int) *Window { return &Window{points: make([]Point, size)} }

// Add adds a point and drops the oldest where the window is full.
func (w *Window) Add(step int64, value float64) {
	w.points[w.next] = Point{step, value}
	w.next = (w.next + 1) % len(w.points)
	w.count = min(w.count+1, len(w.points))
}

// Full tells whether the window has as many points as it can.
func (w *Window) Full() bool { return w.count == len(w.points) }

// Len is the number of points.
func (w *Window) Len() int { return w.count }

// At gives a point, counted from 0, the oldest; i must be less than Len.
func (w *Window) At(i int) Point {
	return w.points[(w.next-w.count+i+len(w.points))%len(w.points)]
}

// Mean is the mean of the values from one place to before another; from must
// be less than to.
func (w *Window) Mean(from, to int) float64 {
	sum := 0.0
	for i := from; i < to; i++ {
		sum += w.At(i).Value
	}
	return sum / float64(to-from)
}

// Clear drops all points.
func (w *Window) Clear() { w.next, w.count = 0, 0 }
