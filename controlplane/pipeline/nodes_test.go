package pipeline

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/store"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// nodeStory writes the frames of two nodes and what trains on them.
type nodeStory struct {
	frames []bus.Delivery
	now    time.Time
}

func (s *nodeStory) frame(node, run string, own bool, e *commonv1.Event) {
	n := len(s.frames) + 1
	e.EventId, e.RunId, e.Node, e.Time = fmt.Sprint("e", n), run, node, timestamppb.New(s.now)
	s.frames = append(s.frames, bus.Delivery{Sequence: uint64(n), Message: bus.Message{
		Node: node, Own: own, Received: s.now, Batch: &agentv1.EventBatch{RunId: run, Events: []*commonv1.Event{e}},
	}})
}

func gpuFault(gpu uint32, code int32) *commonv1.Event {
	return &commonv1.Event{Body: &commonv1.Event_NodeFault{NodeFault: &commonv1.NodeFault{
		Kind: commonv1.FaultKind_FAULT_KIND_XID, Code: code, Gpu: &gpu, Device: "0000:3b:00",
	}}}
}

func link(state commonv1.LinkState) *commonv1.Event {
	return &commonv1.Event{Body: &commonv1.Event_NodeLink{NodeLink: &commonv1.NodeLink{State: state}}}
}

func crashed(restarting bool) *commonv1.Event {
	return &commonv1.Event{Body: &commonv1.Event_AttemptEnded{AttemptEnded: &commonv1.AttemptEnded{
		Failure: commonv1.FailureKind_FAILURE_KIND_CRASH, Restarting: restarting}}}
}

// report is how a node is at a minute of the story: the disk is high for two
// hours, and then well; one GPU is hot all the while.
func report(minute int) *commonv1.Event {
	free := int64(50)
	if minute > 20 && minute < 140 {
		free = 4
		if minute%30 > 15 {
			free = 6 // neither bad enough nor well
		}
	}
	return &commonv1.Event{Body: &commonv1.Event_NodeReport{NodeReport: &commonv1.NodeReport{
		IntervalSeconds: 20, FileSystems: []*commonv1.FileSystemReport{{Mount: "/data", SizeBytes: 100, AvailableBytes: free}},
		Gpus: []*commonv1.GpuReport{{
			Index: 3, Uuid: "GPU-3", SmClockHertz: proto.Float64(1e9), SmClockMaxHertz: proto.Float64(2e9),
			Throttle: []commonv1.ThrottleReason{commonv1.ThrottleReason_THROTTLE_REASON_HARDWARE_THERMAL},
		}},
	}}}
}

// writeNodes tells three and a half hours.
func writeNodes() []bus.Delivery {
	s := &nodeStory{now: start}
	s.frame("n1", "", true, link(commonv1.LinkState_LINK_STATE_CONNECTED))
	for minute := range 210 {
		for range 3 {
			s.now = s.now.Add(20 * time.Second)
			s.frame("n1", "", false, report(minute))
			s.frame("n2", "", false, report(0))
		}
		switch minute {
		case 30: // the cause comes first
			s.frame("n1", "r", false, registered(2))
			s.frame("n2", "r", false, registered(2))
			s.frame("n1", "r", false, stepped(10, 1))
			s.frame("n1", "", false, gpuFault(3, 79))
			s.frame("n2", "r", false, crashed(true))
		case 32: // the next attempt gets past it
			e := stepped(12, 1)
			e.Attempt = 1
			s.frame("n2", "r", false, e)
			end := crashed(false)
			end.Attempt = 1
			end.GetAttemptEnded().ExitCode = proto.Int32(0)
			s.frame("n2", "r", false, end)
		case 100: // the cause comes last, and the node goes away with it
			s.frame("n2", "q", false, registered(1))
			s.frame("n2", "q", false, stepped(5, 1))
			s.frame("n2", "q", false, notFinite(6))
			s.now = s.now.Add(2 * time.Second)
			s.frame("n2", "", false, gpuFault(0, 48))
			s.frame("n2", "", true, link(commonv1.LinkState_LINK_STATE_LOST))
		case 103:
			s.frame("n2", "", true, link(commonv1.LinkState_LINK_STATE_CONNECTED))
		}
	}
	return s.frames
}

// TestNodesRestart stops the pipeline again and again, also longer than the
// detectors of nodes remember, and disturbs it: every row is the same.
func TestNodesRestart(t *testing.T) {
	frames := writeNodes()
	calm := filepath.Join(t.TempDir(), "calm.db")
	p, s := setup(t, calm, &fakeBus{frames: frames})
	run(t, p)
	want := dump(t, calm)
	for name, every := range map[string]int{"often": 29, "seldom": 211} {
		path := filepath.Join(t.TempDir(), name+".db")
		for end := 0; end < len(frames); end += every {
			q, r := setup(t, path, &fakeBus{frames: frames[:min(end+every, len(frames))]})
			run(t, q)
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(dump(t, path), "\n")); diff != "" {
			t.Fatalf("restarted %s (-undisturbed +restarted):\n%s", name, diff)
		}
	}
	rough := filepath.Join(t.TempDir(), "rough.db")
	random := rand.New(rand.NewPCG(1, 2))
	q, r := setup(t, rough, &fakeBus{frames: frames, random: random})
	q.deps.Store = &badStore{Store: r, random: random}
	run(t, q)
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(dump(t, rough), "\n")); diff != "" {
		t.Fatalf("(-undisturbed +disturbed):\n%s", diff)
	}
	if err := errors.Join(s.Close(), r.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestNodeIncidents holds what the story becomes: one incident for cause and
// symptom, whichever came first, that names the cause first.
func TestNodeIncidents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vigil.db")
	p, s := setup(t, path, &fakeBus{frames: writeNodes()})
	run(t, p)
	var all []*controlv1.Incident
	err := s.View(t.Context(), func(tx *store.Tx) error {
		listed, err := tx.Incidents("", 0)
		for _, i := range listed {
			whole, e := tx.Incident(i.GetIncidentId())
			all, err = append(all, whole), errors.Join(err, e)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, i := range all {
		var findings []string
		for _, f := range i.GetFindings() {
			findings = append(findings, f.GetKind())
		}
		got[i.GetKind()+" "+i.GetNode()] += fmt.Sprint("run ", i.GetRunId(), " hits ", i.GetAffectedRuns(), " ", findings, " ",
			i.GetState().String()[len("INCIDENT_STATE_"):], "; ", len(i.GetNotifications()), " notifications")
	}
	want := map[string]string{
		// The throttled GPU of n1 had its incident before it fell off the bus.
		"xid n1":        "run r hits [r] [xid throttling crash] FIRING; 1 notifications",
		"throttling n2": "run  hits [] [throttling] FIRING; 0 notifications",
		"disk-high n1":  "run  hits [r] [disk-high] RESOLVED; 0 notifications",
		"xid n2":        "run q hits [q] [xid nonfinite] FIRING; 1 notifications",
		"node-lost n2":  "run  hits [q] [node-lost] RESOLVED; 2 notifications",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("incidents (-want +got):\n%s", diff)
	}
	for _, i := range all {
		if i.GetKind() == "xid" && !strings.HasPrefix(i.GetSummary(), "XID ") {
			t.Errorf("%s does not name the cause first: %s", i.GetIncidentId(), i.GetSummary())
		}
		t.Log(i.GetSummary())
	}
}
