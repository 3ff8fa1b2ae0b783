package network

import (
	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"
)

// gemmRows is how many rows of a product are made at a time: gonum goes
// parallel, and allocates, from four blocks of 64x64 on.
const gemmRows = 64

// matrix is a dense row-major matrix.
func matrix(rows, cols int, data []float32) blas32.General {
	return blas32.General{Rows: rows, Cols: cols, Stride: cols, Data: data[:rows*cols]}
}

// gemm sets out to a*b, or to the transpose of a times b. There is no
// transposed b on purpose: gonum makes that of dot products, whose order of
// additions depends on where in memory the operands lie.
func gemm(transposeA bool, a, b, out blas32.General) {
	for row := 0; row < out.Rows; row += gemmRows {
		rows := min(gemmRows, out.Rows-row)
		part, factor, trans := out, a, blas.NoTrans
		part.Rows, part.Data = rows, out.Data[row*out.Stride:]
		if transposeA {
			trans = blas.Trans
			factor.Cols, factor.Data = rows, a.Data[row:]
		} else {
			factor.Rows, factor.Data = rows, a.Data[row*a.Stride:]
		}
		blas32.Gemm(trans, blas.NoTrans, 1, factor, b, 0, part)
	}
}

// transpose sets out to the transpose of a.
func transpose(a, out blas32.General) {
	for i := range a.Rows {
		for j, value := range a.Data[i*a.Stride : i*a.Stride+a.Cols] {
			out.Data[j*out.Stride+i] = value
		}
	}
}
