package ranksim

import (
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/detect"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Outcome is what the rules made of a case.
type Outcome struct {
	// Findings are all that they gave.
	Findings []*controlv1.Finding
	// Found tells whether the fault's kind is among them, not before its onset.
	Found bool
	// Right tells whether the first such finding blames exactly the ranks whose
	// fault it is; nobody, where it is nobody's. Of a healthy run, that nothing
	// was found.
	Right bool
	// One tells whether it is the only finding; of a healthy run, Right.
	One bool
	// Delay is from the onset to that finding, in steps.
	Delay int64
	// Reports is how many reports and ticks were observed.
	Reports int
}

// Play makes the run and gives its events to the rules, in the order in which a
// control plane would have them.
func Play(c Case, rules []detect.Rule) Outcome {
	s, bank := newSim(c), detect.NewBank(rules)
	out := Outcome{}
	s.run(func(event *commonv1.Event) {
		out.Reports++
		out.Findings = append(out.Findings, bank.Observe(event)...)
	})
	out.judge(s)
	return out
}

// Record makes the run and gives each event to keep, as one of its own.
func Record(c Case, keep func(*commonv1.Event)) {
	newSim(c).run(func(event *commonv1.Event) { keep(proto.CloneOf(event)) })
}

// run makes the run's events. What is observed is filled anew for the next.
func (s *sim) run(observe func(*commonv1.Event)) {
	e := newEmitter(s.Ranks, observe)
	for n := range int64(s.Steps) {
		if s.hangs(n) {
			e.still(s, n)
			return
		}
		before := s.now
		s.step(n)
		if s.now-before > tickSeconds {
			e.ticks(s, n, before+tickSeconds, func(place int) commonv1.Activity {
				if place == 0 {
					return commonv1.Activity_ACTIVITY_COMPUTE
				}
				return commonv1.Activity_ACTIVITY_COLLECTIVE
			})
		}
		e.reports(s, n)
	}
}

func (o *Outcome) judge(s *sim) {
	kind := s.Fault.kind()
	if kind == "" {
		o.Right = len(o.Findings) == 0
		o.Found, o.One = o.Right, o.Right
		return
	}
	at := slices.IndexFunc(o.Findings, func(f *controlv1.Finding) bool {
		return f.GetKind() == kind && f.GetStep() >= s.truth.onset-1
	})
	if at < 0 {
		return
	}
	f := o.Findings[at]
	o.Found, o.One, o.Delay = true, len(o.Findings) == 1, max(0, f.GetStep()-s.truth.onset)
	var ranks []uint32
	for place := range s.truth.places {
		ranks = append(ranks, uint32(place))
	}
	slices.Sort(ranks)
	switch blamed := f.GetRanks(); {
	case f.GetBlameUnknown():
		o.Right = len(ranks) == 0
	case len(blamed) == 0:
		o.Right = len(ranks) == 1 && ranks[0] == f.GetRank() && f.GetNode() == node(int(ranks[0]))
	default:
		o.Right = slices.Equal(ranks, blamed) && f.GetNode() == node(int(ranks[0]))
	}
}

// emitter makes events of rows. It has one event, which it fills anew.
type emitter struct {
	observe func(*commonv1.Event)
	nodes   []string
	order   []int
	late    []int // places whose rows come among those of the next step
	kept    []row
	event   commonv1.Event
	time    timestamppb.Timestamp
	step    commonv1.StepReport
	body    commonv1.Event_Step
	row     row
	bytes   int64
}

func newEmitter(ranks int, observe func(*commonv1.Event)) *emitter {
	e := &emitter{observe: observe, kept: make([]row, ranks)}
	for place := range ranks {
		e.nodes, e.order = append(e.nodes, node(place)), append(e.order, place)
	}
	e.event.RunId, e.event.Time = "run", &e.time
	e.body.Step = &e.step
	e.step.ComputeSeconds, e.step.DataSeconds, e.step.CommunicationSeconds, e.step.StepSeconds = &e.row.compute, &e.row.data, &e.row.communicate, &e.row.step
	e.step.Loss, e.step.GradientNorm, e.step.ResidentBytes = &e.row.loss, &e.row.norm, &e.bytes
	return e
}

// reports sends a step's rows in any order. Some come among those of the next
// step, some never.
func (e *emitter) reports(s *sim, n int64) {
	s.random.Shuffle(len(e.order), func(i, j int) { e.order[i], e.order[j] = e.order[j], e.order[i] })
	late := e.late
	e.late = nil
	for i, place := range e.order {
		if i == len(e.order)/4 {
			for _, place := range late {
				e.report(s.now-stepSeconds, place, n-1, e.kept[place])
			}
		}
		switch u := s.random.Float64(); {
		case u < 1e-4:
		case u < 5e-3 && !slices.Contains(late, place):
			e.late, e.kept[place] = append(e.late, place), s.rows[place]
		default:
			e.report(s.now, place, n, s.rows[place])
		}
	}
}

func (e *emitter) report(now float64, place int, n int64, r row) {
	e.row, e.bytes = r, int64(r.resident)
	e.step.Step = n
	e.event.Body = &e.body
	e.send(now, place)
}

func (e *emitter) send(now float64, place int) {
	whole, part := math.Modf(now)
	e.time.Seconds, e.time.Nanos = int64(whole), int32(part*float64(time.Second))
	e.event.Rank, e.event.Node = uint32(place), e.nodes[place]
	e.observe(&e.event)
}

// ticks sends each rank's heartbeat, but those that a hang has silenced.
func (e *emitter) ticks(s *sim, n int64, now float64, activity func(place int) commonv1.Activity) {
	for place := range s.ranks {
		last := n - 1
		if s.hangs(n) && s.truth.places[place] {
			switch s.Fault {
			case Silent, LostNode:
				continue
			case Ahead:
				last = n
			}
		}
		e.event.Body = &commonv1.Event_Tick{Tick: &commonv1.Tick{LastStep: last, Activity: activity(place)}}
		e.send(now+tickSeconds*float64(place)/float64(len(s.ranks)), place)
	}
}

// still lets time pass with no step.
func (e *emitter) still(s *sim, n int64) {
	e.flush(s, n)
	for waited := 0.0; waited < stillSeconds; waited += tickSeconds {
		e.ticks(s, n, s.now+waited, func(place int) commonv1.Activity {
			switch {
			case !s.truth.places[place]:
			case s.Fault == Computing:
				return commonv1.Activity_ACTIVITY_COMPUTE
			case s.Fault == Loading:
				return commonv1.Activity_ACTIVITY_DATA
			}
			return commonv1.Activity_ACTIVITY_COLLECTIVE
		})
	}
}

// flush sends what is late.
func (e *emitter) flush(s *sim, n int64) {
	for _, place := range e.late {
		e.report(s.now, place, n-1, e.kept[place])
	}
	e.late = nil
}
