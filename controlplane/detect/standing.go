package detect

import commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"

// Standing is what the event that a bank observed last changed.
type Standing struct {
	// Over are the kinds whose problem ended with it; mostly none.
	Over []string
	// Open are those whose problem goes on; only given where some are over.
	Open []string
}

// Standing gives what the event that was observed last changed.
func (b *Bank) Standing() Standing { return b.now }

// stand compares what goes on with what went on at the run's step before.
func (b *Bank) stand(event *commonv1.Event, detectors []Detector) {
	b.now = Standing{}
	if event.GetStep() == nil || detectors == nil {
		return
	}
	was := b.was[event.GetRunId()]
	if was == nil {
		was = make([]bool, len(detectors))
		b.was[event.GetRunId()] = was
	}
	for i, detector := range detectors {
		open := detector.Open()
		if was[i] && !open {
			b.now.Over = append(b.now.Over, b.rules[i].Code)
		}
		was[i] = open
	}
	if b.now.Over == nil {
		return
	}
	for i, open := range was {
		if open {
			b.now.Open = append(b.now.Open, b.rules[i].Code)
		}
	}
}
