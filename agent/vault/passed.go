package vault

import (
	"slices"

	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

const maxPassedOver = 100

// passedOver gathers checkpoints with the reasons against them.
type passedOver struct {
	list  []*trainerv1.PassedOver
	about []*Checkpoint // nil: not in the vault yet
}

func (p *passedOver) add(id, reason string) {
	p.list = append(p.list, &trainerv1.PassedOver{CheckpointId: id, Reason: reason})
	p.about = append(p.about, nil)
}

func (p *passedOver) at(c Checkpoint, reason string) {
	p.add(c.ID, reason)
	p.about[len(p.about)-1] = &c
}

// newerThan gives those before the chosen one, newest first; all without one.
func (p *passedOver) newerThan(chosen *Checkpoint) []*trainerv1.PassedOver {
	order := make([]int, 0, len(p.list))
	for i, c := range p.about {
		if c == nil || chosen == nil || newer(*c, *chosen) < 0 {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch ca, cb := p.about[a], p.about[b]; {
		case ca == nil && cb == nil:
			return 0
		case ca == nil:
			return -1
		case cb == nil:
			return 1
		default:
			return newer(*ca, *cb)
		}
	})
	var out []*trainerv1.PassedOver
	for _, i := range order[:min(len(order), maxPassedOver)] {
		out = append(out, p.list[i])
	}
	return out
}
