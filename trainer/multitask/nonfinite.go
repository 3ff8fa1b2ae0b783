package multitask

import (
	"math"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// NonFinite gives nil when a computed step can be applied, and otherwise where
// the first value lies that is not finite: among the parameters, the gradients
// or, if neither has one, in the loss.
func (t *Training) NonFinite(o Outcome) *commonv1.NonFinite {
	if finite(o.GradientNorm) && o.Losses.Finite() {
		return nil
	}
	found := &commonv1.NonFinite{Quantity: commonv1.Quantity_QUANTITY_LOSS, Tensor: "loss", TensorSize: 1, ParametersIntact: true}
	switch {
	case t.search(t.net.Parameters, "", found):
		found.Quantity, found.ParametersIntact = commonv1.Quantity_QUANTITY_PARAMETER, false
	case t.search(t.net.Gradients, ".grad", found):
		found.Quantity = commonv1.Quantity_QUANTITY_GRADIENT
	case math.IsNaN(o.Losses.Total()):
		found.NanCount = 1
	default:
		found.InfCount = 1
	}
	found.Step = t.step + 1
	return found
}

// search names the first tensor with a value that is not finite.
func (t *Training) search(flat []float32, suffix string, found *commonv1.NonFinite) bool {
	for _, tensor := range t.net.Tensors {
		nan, inf := countNonFinite(tensor.Of(flat))
		if nan+inf > 0 {
			found.Tensor, found.TensorSize = tensor.Name+suffix, int64(tensor.Size())
			found.NanCount, found.InfCount = nan, inf
			return true
		}
	}
	return false
}

// NonFiniteParameters counts the parameters that are not finite.
func (t *Training) NonFiniteParameters() int64 {
	nan, inf := countNonFinite(t.net.Parameters)
	return nan + inf
}

func countNonFinite(values []float32) (nan, inf int64) {
	for _, value := range values {
		switch {
		case value != value:
			nan++
		case value > math.MaxFloat32 || value < -math.MaxFloat32:
			inf++
		}
	}
	return nan, inf
}

// Poison has the next Compute meet a NaN in a gradient of the last shared layer,
// as a faulty device would make it.
func (t *Training) Poison() { t.poison = true }

// PoisonParameter makes a parameter of the last shared layer NaN at once, as a
// faulty memory would.
func (t *Training) PoisonParameter() {
	weight := t.room.last[0].Of(t.net.Parameters)
	weight[len(weight)/2] = float32(math.NaN())
}
