package multitask

import (
	"math/rand/v2"

	"github.com/vigil-ml/vigil/trainer/digits"
)

const (
	testPairs = 2048 // pairs of held-out digits, always the same
	testSeed  = 3
)

// Score is how well the model does on pairs of digits that it never saw.
type Score struct {
	Left     float64 // share of left digits told, 0 to 1
	Right    float64 // share of right digits told, 0 to 1
	InkError float64 // mean absolute error of the ink, in pixels of full ink
	Losses   Losses
}

// Evaluate scores the model on held-out pairs. It uses the room of a batch:
// call it between steps, not between Compute and Apply.
func (t *Training) Evaluate() Score {
	source := rand.New(rand.NewPCG(testSeed, testSeed))
	var s Score
	for done := 0; done < testPairs; {
		rows := min(t.config.Batch, testPairs-done)
		t.draw(source, t.set.Test, rows)
		t.net.forward(matrix(rows, digits.CanvasPixels, t.input))
		left, leftCorrect := softmaxLoss(&t.net.left, t.labels[0][:rows], 0)
		right, rightCorrect := softmaxLoss(&t.net.right, t.labels[1][:rows], 0)
		ink, inkError := squaredLoss(&t.net.ink, t.inks[:rows])
		share := float64(rows) / testPairs
		s.Losses.Left += left * share
		s.Losses.Right += right * share
		s.Losses.Ink += ink * share
		s.InkError += inkError * InkUnit * share
		s.Left += float64(leftCorrect) / testPairs
		s.Right += float64(rightCorrect) / testPairs
		done += rows
	}
	return s
}
