package rules_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/controlplane/detect/rules"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// stage has nodes and runs say things at seconds after the beginning, each by
// its own clock.
type stage struct {
	bank  *detect.Bank
	n     int
	found []*controlv1.Finding
}

func newStage() *stage {
	set := rules.Defaults()
	return &stage{bank: detect.NewBank(rules.All(set)).WatchNodes(rules.Nodes(set.Nodes))}
}

func (s *stage) say(node, run string, seconds float64, e *commonv1.Event) {
	s.n++
	e.EventId, e.Node, e.RunId = fmt.Sprint("e", s.n), node, run
	e.Time = timestamppb.New(time.Unix(1_700_000_000, 0).Add(time.Duration(seconds * float64(time.Second))))
	s.found = append(s.found, s.bank.Observe(e)...)
}

func (s *stage) steps(node, run string, from, to int) {
	for i := from; i < to; i++ {
		s.say(node, run, float64(i), at(0, &commonv1.StepReport{Step: int64(i)}))
	}
}

func tick(step int64) *commonv1.Event {
	return &commonv1.Event{Body: &commonv1.Event_Tick{Tick: &commonv1.Tick{LastStep: step}}}
}

func xid(code int32, gpu uint32) *commonv1.Event {
	return &commonv1.Event{Body: &commonv1.Event_NodeFault{NodeFault: xidFault(code, gpu)}}
}

func ahead(seconds float64) *commonv1.Event {
	return &commonv1.Event{Body: &commonv1.Event_NodeLink{NodeLink: &commonv1.NodeLink{
		State: commonv1.LinkState_LINK_STATE_CONNECTED, ClockAheadSeconds: &seconds}}}
}

func onGPUs(pids ...int64) *commonv1.Event {
	r := &commonv1.NodeReport{IntervalSeconds: 10}
	for i, pid := range pids {
		r.Gpus = append(r.Gpus, &commonv1.GpuReport{Index: uint32(i), Pids: []int64{pid}})
		r.Processes = append(r.Processes, &commonv1.ProcessReport{RunId: fmt.Sprint("run", i), Pid: pid})
	}
	return &commonv1.Event{Body: &commonv1.Event_NodeReport{NodeReport: r}}
}

func ended(kind commonv1.FailureKind) *commonv1.Event {
	return &commonv1.Event{Body: &commonv1.Event_AttemptEnded{AttemptEnded: &commonv1.AttemptEnded{Failure: kind, Restarting: true}}}
}

// short says what was found: kind, run or node, and the cause or what it
// explains.
func (s *stage) short() (all []string) {
	ids := map[string]string{}
	for _, f := range s.found {
		ids[f.GetFindingId()] = f.GetKind()
	}
	for _, f := range s.found {
		text := f.GetKind() + " " + f.GetRunId()
		if f.GetProblem() != "" {
			text = f.GetKind() + " " + f.GetNode()
		}
		if c := f.GetCause(); c != nil {
			text += fmt.Sprintf(" by %s on %s GPU %d", c.GetKind(), c.GetNode(), c.GetGpu())
		}
		for _, id := range f.GetExplains() {
			text += " explains " + ids[id]
		}
		all = append(all, text)
	}
	return all
}

func TestCauses(t *testing.T) {
	const crash, userError = commonv1.FailureKind_FAILURE_KIND_CRASH, commonv1.FailureKind_FAILURE_KIND_USER_ERROR
	for name, tc := range map[string]struct {
		tell func(s *stage)
		want []string
	}{
		"a hang after an error of another node": {func(s *stage) {
			s.steps("n1", "r", 1, 30)
			s.say("n2", "r", 29, at(1, &commonv1.StepReport{Step: 29}))
			s.say("n2", "", 31, xid(79, 5))
			s.say("n1", "r", 400, tick(29))
		}, []string{"xid n2", "hang r by xid on n2 GPU 5"}},
		"an error long before": {func(s *stage) {
			s.say("n1", "r", 0, at(0, &commonv1.StepReport{Step: 0}))
			s.say("n1", "", 0, xid(79, 5))
			s.steps("n1", "r", 400, 430)
			s.say("n1", "r", 800, tick(429))
		}, []string{"xid n1", "hang r"}},
		"an error of a node on which the run is not": {func(s *stage) {
			s.steps("n1", "r", 1, 30)
			s.say("n3", "", 31, xid(79, 5))
			s.say("n1", "r", 400, tick(29))
		}, []string{"xid n3", "hang r"}},
		"a kernel log that is late": {func(s *stage) {
			s.steps("n1", "r", 1, 30)
			s.say("n1", "r", 30, ended(crash))
			s.say("n1", "", 40, xid(48, 2))
		}, []string{"xid n1", "crash r by xid on n1 GPU 2"}},
		"a late cause of what was said": {func(s *stage) {
			s.steps("n1", "r", 1, 30)
			nan := &commonv1.Event{Body: &commonv1.Event_NonFinite{NonFinite: &commonv1.NonFinite{Step: 30, TensorSize: 1, NanCount: 1}}}
			s.say("n1", "r", 30, nan)
			s.say("n1", "", 40, xid(48, 2))
		}, []string{"nonfinite r", "xid n1 explains nonfinite"}},
		"a crash that nothing explains, and one that is the program's": {func(s *stage) {
			s.steps("n1", "r", 1, 30)
			s.say("n1", "r", 30, ended(crash))
			s.steps("n1", "q", 1, 30)
			s.say("n1", "q", 200, ended(userError))
			s.say("n1", "", 201, xid(48, 2))
		}, []string{"xid n1"}},
		"clocks that differ": {func(s *stage) {
			s.say("n2", "", 0, ahead(1000))
			s.steps("n1", "r", 1, 30)
			s.say("n2", "r", 1029, at(1, &commonv1.StepReport{Step: 29}))
			s.say("n2", "", 1031, xid(79, 5)) // second 31 by the other's clock
			s.say("n1", "r", 400, tick(29))
		}, []string{"xid n2", "hang r by xid on n2 GPU 5"}},
		"a GPU of another run": {func(s *stage) {
			for _, run := range []string{"run0", "run1"} {
				s.say("n1", run, 0, at(0, &commonv1.StepReport{Step: 0}))
			}
			s.say("n1", "", 1, onGPUs(100, 101))
			s.say("n1", "", 2, xid(79, 1))
			s.say("n1", "run0", 3, ended(crash))
			s.say("n1", "run1", 3, ended(crash))
		}, []string{"xid n1", "crash run1 by xid on n1 GPU 1"}},
		"a state that goes on": {func(s *stage) {
			s.say("n1", "r", 0, at(0, &commonv1.StepReport{Step: 0}))
			for i := range 200 {
				s.say("n1", "", float64(10*i), &commonv1.Event{Body: &commonv1.Event_NodeReport{NodeReport: &commonv1.NodeReport{
					FileSystems: []*commonv1.FileSystemReport{{Mount: "/", SizeBytes: 1000, AvailableBytes: int64(max(0, 500-100*i))}}}}})
			}
			s.say("n1", "r", 1990, ended(crash))
		}, []string{"disk-full n1", "disk-high n1", "crash r by disk-full on n1 GPU 0"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage()
			tc.tell(s)
			if diff := cmp.Diff(tc.want, s.short()); diff != "" {
				t.Errorf("found (-want +got):\n%s", diff)
			}
		})
	}
}

// TestRestore: what was open stays open, what was not is found.
func TestRestore(t *testing.T) {
	s := newStage()
	s.say("n1", "", 0, xid(79, 5))
	open := proto.CloneOf(s.found[0])
	later := newStage()
	later.bank.Restore([]*controlv1.Finding{open})
	later.say("n1", "", 10, xid(79, 5))
	later.say("n1", "", 11, xid(79, 6))
	if diff := cmp.Diff([]string{"xid n1"}, later.short()); diff != "" || later.found[0].GetGpu() != 6 {
		t.Errorf("found after the restart (-want +got):\n%s", diff)
	}
	later.say("n1", "", 4000, onGPUs())
	if got := later.bank.Ended(); len(got) != 2 || (got[0].GetFindingId() != open.GetFindingId() && got[1].GetFindingId() != open.GetFindingId()) {
		t.Errorf("ended: %v", got)
	}
}
