package runs

import (
	"math"
	"time"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Advise says how often a run should save, by what saving cost it and how often
// it failed; nil while it has not saved or not trained yet. It is a pure
// function; now ends the attempt that is still on.
//
// With a cost C of a checkpoint and a mean time M between failures, saving every
// t loses about C/t + t/2M of the time. Young (1974) takes sqrt(2CM), where that
// is least; Daly (2006, equation 37) the same with terms of higher order, and M
// where C is 2M or more. Where no failure has come, M is the time without one:
// it is longer than that, and so is the interval.
func Advise(attempts []*controlv1.Attempt, step int64, now time.Time) *controlv1.Advice {
	var (
		trained, paused  float64
		pauses, failures int64
	)
	first := int64(math.MaxInt64)
	for _, at := range attempts {
		end := now
		if at.GetEnded() != nil {
			end = at.GetEnded().AsTime()
		}
		if at.GetStarted() == nil {
			continue
		}
		trained += max(0, end.Sub(at.GetStarted().AsTime()).Seconds())
		paused += at.GetCheckpointPauseSeconds()
		pauses += at.GetCheckpointPauses()
		if at.GetEnded() != nil && at.GetFailure() != commonv1.FailureKind_FAILURE_KIND_UNSPECIFIED {
			failures++
		}
		first = min(first, at.GetResumedStep())
	}
	if pauses == 0 || trained <= paused {
		return nil
	}
	a := &controlv1.Advice{
		CheckpointCostSeconds: paused / float64(pauses), FailureIntervalSeconds: trained / float64(max(1, failures)),
		Failures: failures, CurrentSeconds: trained / float64(pauses),
	}
	cost, between := a.CheckpointCostSeconds, a.FailureIntervalSeconds
	a.YoungSeconds, a.DalySeconds = Young(cost, between), Daly(cost, between)
	if done := step - min(first, step); done > 0 {
		a.DalySteps = max(1, int64(math.Round(a.DalySeconds/(trained/float64(done)))))
	}
	a.CurrentLossRatio, a.DalyLossRatio = lost(cost, between, a.CurrentSeconds), lost(cost, between, a.DalySeconds)
	return a
}

// Young gives the interval between checkpoints in seconds, of a cost of one and
// a mean time between failures. J. W. Young, A first order approximation to the
// optimum checkpoint interval, CACM 17 (1974).
func Young(cost, between float64) float64 { return math.Sqrt(2 * cost * between) }

// Daly gives it with terms of higher order. J. T. Daly, A higher order estimate
// of the optimum checkpoint interval for restart dumps, FGCS 22 (2006).
func Daly(cost, between float64) float64 {
	if cost >= 2*between {
		return between
	}
	part := cost / (2 * between)
	return Young(cost, between)*(1+math.Sqrt(part)/3+part/9) - cost
}

// lost is the share of the time that goes into saving and into work that is done
// again, at an interval.
func lost(cost, between, interval float64) float64 {
	if interval <= 0 {
		return 1
	}
	return min(1, cost/interval+interval/(2*between))
}
