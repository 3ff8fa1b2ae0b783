package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// What a run does when nobody disturbs it.
const (
	steps      = 240
	saveEvery  = 20
	pace       = 2 * time.Millisecond
	undisturbe = steps * pace // about how long it takes, apart from start and end
)

// kind is what a blow does.
type kind string

const (
	killTrainer    kind = "kill trainer"
	killSupervisor kind = "kill supervisor"
	killAgent      kind = "kill agent"
	killAll        kind = "kill all"
	flipBit        kind = "flip bit"
	tearFile       kind = "tear file"
	removeFile     kind = "remove file"
	fillDisk       kind = "fill disk"
	nanGradient    kind = "NaN gradient"
	nanParameter   kind = "NaN parameter"
	killSecond     kind = "kill S3 server"
	refuseSecond   kind = "S3 server refuses"
	stopSecond     kind = "S3 server hangs"
)

// kinds is every kind of blow. Faults that the trainer injects come first in the
// attempt and at most once.
func kinds() []kind {
	return []kind{
		killTrainer, killSupervisor, killAgent, killAll, flipBit, tearFile, removeFile, fillDisk, nanGradient, nanParameter,
	}
}

// outages is what happens to the second store.
func outages() []kind { return []kind{killSecond, refuseSecond, stopSecond} }

// blow is one thing that goes wrong.
type blow struct {
	kind kind
	at   time.Duration // since the run's beginning
	away time.Duration // until what was killed comes back, or the disk has room again
	step int64         // for what the trainer injects
	// quiet has files damaged while the agent is dead: it is killed first.
	quiet bool
	// draw picks the file and the place in it.
	draw uint64
}

// plan is what happens to one run.
type plan struct {
	seed  uint64
	run   int
	blows []blow
}

// draw makes the plan of a run; the same for the same seed and number.
func draw(seed uint64, run int) plan {
	random := rand.New(rand.NewPCG(seed, uint64(run)))
	p := plan{seed: seed, run: run}
	all := kinds()
	for range 1 + random.IntN(5) {
		b := blow{
			kind: all[random.IntN(len(all))],
			at:   time.Duration(random.Int64N(int64(undisturbe * 3 / 2))),
			away: time.Duration(random.Int64N(int64(300 * time.Millisecond))),
			step: 1 + random.Int64N(steps-1), quiet: random.IntN(2) == 0, draw: random.Uint64(),
		}
		p.blows = append(p.blows, b)
	}
	// Drawn apart, so that a seed has what it had before there was a second store.
	random = rand.New(rand.NewPCG(seed, uint64(run)|1<<32))
	for range random.IntN(3) {
		p.blows = append(p.blows, blow{
			kind: outages()[random.IntN(len(outages()))],
			at:   time.Duration(random.Int64N(int64(undisturbe * 3 / 2))),
			away: time.Duration(random.Int64N(int64(600 * time.Millisecond))),
		})
	}
	slices.SortStableFunc(p.blows, func(a, b blow) int { return int(a.at - b.at) })
	return p
}

// injected gives what the trainer is told to break by itself.
func (p plan) injected() string {
	var faults []string
	for _, b := range p.blows {
		switch b.kind {
		case nanGradient:
			faults = append(faults, fmt.Sprintf("nan-grad@%d", b.step))
		case nanParameter:
			faults = append(faults, fmt.Sprintf("nan-param@%d", b.step))
		}
	}
	return strings.Join(faults, ",")
}

// String is the plan for a person who wants to play it again.
func (p plan) String() string {
	var parts []string
	for _, b := range p.blows {
		switch b.kind {
		case nanGradient, nanParameter:
			parts = append(parts, fmt.Sprintf("%s at step %d", b.kind, b.step))
		case flipBit, tearFile, removeFile:
			how := "live"
			if b.quiet {
				how = "agent dead"
			}
			parts = append(parts, fmt.Sprintf("%s (%s) at %s", b.kind, how, b.at.Round(time.Millisecond)))
		default:
			parts = append(parts, fmt.Sprintf("%s at %s for %s", b.kind, b.at.Round(time.Millisecond), b.away.Round(time.Millisecond)))
		}
	}
	return fmt.Sprintf("seed %d run %d: %s", p.seed, p.run, strings.Join(parts, ", "))
}
