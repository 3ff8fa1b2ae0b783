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

// stand compares what goes on with what went on up to the run's step before: a
// problem may have begun between two steps, as a hang does. Only a step ends
// one. Rules that are only tried do not count.
func (w *watch) stand(event *commonv1.Event) Standing {
	var now Standing
	if event.GetStep() == nil {
		for i, detector := range w.detectors {
			w.was[i] = w.was[i] || detector.Open()
		}
		return now
	}
	for i, detector := range w.detectors {
		open := detector.Open()
		if w.was[i] && !open && !w.set.rules[i].Shadow {
			now.Over = append(now.Over, w.set.rules[i].Code)
		}
		w.was[i] = open
	}
	if now.Over == nil {
		return now
	}
	for i, open := range w.was {
		if open && !w.set.rules[i].Shadow {
			now.Open = append(now.Open, w.set.rules[i].Code)
		}
	}
	return now
}
