package balance

import "math"

// solve solves a x = b for x by Gaussian elimination with partial pivoting. A
// is n*n, row by row; a and b are used up, and b holds x afterwards. It tells
// whether there is one solution.
func solve(a, b []float64) bool {
	n := len(b)
	scale := 0.0
	for _, x := range a {
		scale = max(scale, math.Abs(x))
	}
	for column := range n {
		pivot := column
		for row := column + 1; row < n; row++ {
			if math.Abs(a[row*n+column]) > math.Abs(a[pivot*n+column]) {
				pivot = row
			}
		}
		if !(math.Abs(a[pivot*n+column]) > 1e-12*scale) {
			return false
		}
		for k := range n {
			a[column*n+k], a[pivot*n+k] = a[pivot*n+k], a[column*n+k]
		}
		b[column], b[pivot] = b[pivot], b[column]
		for row := column + 1; row < n; row++ {
			factor := a[row*n+column] / a[column*n+column]
			for k := column; k < n; k++ {
				a[row*n+k] -= factor * a[column*n+k]
			}
			b[row] -= factor * b[column]
		}
	}
	for row := n - 1; row >= 0; row-- {
		for k := row + 1; k < n; k++ {
			b[row] -= a[row*n+k] * b[k]
		}
		b[row] /= a[row*n+row]
	}
	return true
}
