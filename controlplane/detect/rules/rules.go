package rules

import (
	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// All is every rule that is not off, with its settings. The live control plane
// and a replay use this one list.
func All(s Settings) []detect.Rule { return s.Modes.apply(list(s)) }

// list is every rule.
func list(s Settings) []detect.Rule {
	return []detect.Rule{
		NonFinite(),
		Divergence(s.Divergence),
		Spike(s.Spike),
		Explosion(s.Explosion),
		Vanishing(s.Vanishing),
		Plateau(s.Plateau),
		Leak(s.Leak),
		Starvation(s.Starvation),
		Straggler(s.Straggler),
		Hang(s.Hang),
		Crash(),
		Failed(),
		Parameters(),
		Overfitting(s.Overfitting),
		DeadUnits(s.DeadUnits),
		Saturated(s.Saturated),
		UpdateRatio(s.UpdateRatio),
		WeightCollapse(s.WeightCollapse),
		GradientConflict(s.GradientConflict),
		Slowdown(s.Slowdown),
		Fragmentation(s.Fragmentation),
	}
}

// changes tells whether an event is a declared change after which the old
// level of loss, gradient and time means nothing.
func changes(event *commonv1.Event) bool {
	p := event.GetPhase()
	if p.GetEdge() != commonv1.PhaseEdge_PHASE_EDGE_BEGIN {
		return false
	}
	switch p.GetKind() {
	case commonv1.PhaseKind_PHASE_KIND_DATA_CHANGE, commonv1.PhaseKind_PHASE_KIND_LOSS_CHANGE,
		commonv1.PhaseKind_PHASE_KIND_LEARNING_RATE_RESTART, commonv1.PhaseKind_PHASE_KIND_WORLD_SIZE_CHANGE,
		commonv1.PhaseKind_PHASE_KIND_SEQUENCE_LENGTH_CHANGE:
		return true
	}
	return false
}

// perRank is a rule's state for each rank of a run; its size is that of the
// run, not of its length.
type perRank[T any] struct {
	states map[uint32]*T
	make   func() *T
}

func newPerRank[T any](create func() *T) perRank[T] {
	return perRank[T]{states: map[uint32]*T{}, make: create}
}

func (p perRank[T]) of(rank uint32) *T {
	state, ok := p.states[rank]
	if !ok {
		state = p.make()
		p.states[rank] = state
	}
	return state
}
