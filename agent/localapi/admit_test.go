package localapi_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/agent/localapi"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

// count reads a counter of the node.
func (n *node) count(def metric.Def) (sum float64) {
	n.t.Helper()
	families, err := n.metrics.Gather()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == def.Name {
			for _, m := range family.Metric {
				sum += m.Counter.GetValue()
			}
		}
	}
	return sum
}

// A trainer's word on a checkpoint counts only for its own run's, and that it
// failed only until it is committed.
func TestWordOnCheckpoints(t *testing.T) {
	n := serve(t)
	n.orders.known = map[string]localapi.Ordered{"ordered": {Order: &commonv1.CheckpointOrder{RunId: "run", CheckpointId: "ordered"}}}
	mine, other := n.register(registration("run", 0)), n.register(registration("other", 0))
	begin := func(id string) string {
		out, err := n.client.BeginCheckpoint(t.Context(), &trainerv1.BeginCheckpointRequest{SessionId: mine, CheckpointId: id})
		if err != nil {
			t.Fatal(err)
		}
		return out.StagingDirectory
	}
	saved := begin("saved")
	if err := os.WriteFile(filepath.Join(saved, "w"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := n.client.CommitCheckpoint(t.Context(), &trainerv1.CommitCheckpointRequest{SessionId: mine, CheckpointId: "saved",
		Metadata: &commonv1.CheckpointMetadata{WorldSize: 1}}); err != nil {
		t.Fatal(err)
	}
	open := begin("open")
	const directed, failed = commonv1.CheckpointState_CHECKPOINT_STATE_DIRECTED, commonv1.CheckpointState_CHECKPOINT_STATE_FAILED
	refused := 0.0
	for _, tc := range []struct {
		session string
		id      string
		state   commonv1.CheckpointState
		taken   bool
	}{
		{mine, "ordered", directed, true}, {mine, "ordered", failed, true}, {mine, "unknown", failed, true},
		{other, "ordered", directed, false}, {other, "ordered", failed, false},
		{other, "saved", directed, false}, {other, "saved", failed, false}, {other, "open", failed, false},
		{mine, "saved", directed, true}, // late, and true
		{mine, "saved", failed, false},
		{mine, "open", failed, true},
	} {
		if _, err := os.Stat(open); err != nil {
			t.Fatalf("%s %s: the staging directory is gone too early", tc.id, tc.state)
		}
		event := &commonv1.Event{EventId: fmt.Sprint(tc), Body: &commonv1.Event_Checkpoint{
			Checkpoint: &commonv1.CheckpointProgress{CheckpointId: tc.id, State: tc.state, SizeBytes: 1, Path: "/x", ManifestSha256: "0"}}}
		n.say(tc.session, event)
		run := map[string]string{mine: "run", other: "other"}[tc.session]
		taken := false
		for _, e := range n.list(run) {
			c := e.GetCheckpoint()
			taken = taken || (c.GetCheckpointId() == tc.id && c.State == tc.state)
			if c.GetState() == tc.state && (c.SizeBytes != 0 || c.Path != "" || c.ManifestSha256 != "") {
				t.Errorf("a trainer speaks as the vault does: %v", c)
			}
		}
		if taken != tc.taken {
			t.Errorf("%s %s of run %s: taken is %v", tc.id, tc.state, run, taken)
		}
		if !tc.taken {
			refused++
		}
	}
	if _, err := os.Stat(open); err == nil {
		t.Error("a checkpoint that its trainer gave up still takes room")
	}
	if got := n.count(metric.AgentEventsRefused); got != refused {
		t.Errorf("%v events were counted as refused; want %v", got, refused)
	}
}

func TestTimesAreClamped(t *testing.T) {
	n := serve(t)
	session := n.register(registration("run", 0))
	now := time.Now()
	day := 24 * time.Hour
	cases := []struct {
		at   *timestamppb.Timestamp
		want time.Duration // from now
	}{
		{timestamppb.New(now.Add(-23 * time.Hour)), -23 * time.Hour}, {timestamppb.New(now.Add(time.Hour)), time.Hour},
		{timestamppb.New(time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)), -day},
		{timestamppb.New(time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)), day},
		{&timestamppb.Timestamp{Seconds: 1 << 60}, 0}, {&timestamppb.Timestamp{Seconds: now.Unix(), Nanos: -1}, 0},
	}
	for i, tc := range cases {
		n.say(session, &commonv1.Event{Time: proto.CloneOf(tc.at), Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: int64(i)}}})
	}
	for i, tc := range cases {
		if off := n.list("run")[i+1].Time.AsTime().Sub(now) - tc.want; off.Abs() > time.Minute {
			t.Errorf("%v became %v", tc.at, n.list("run")[i+1].Time.AsTime())
		}
	}
	if got := n.count(metric.AgentEventsClamped); got != 4 {
		t.Errorf("%v times were counted as clamped; want 4", got)
	}
}

// An agent that stops tells what it was told to tell, and takes no more.
func TestStoppingAgentTakesNoOrders(t *testing.T) {
	n := makeNode(t)
	n.client = trainerv1.NewTrainerServiceClient(dial(t, n.socket))
	group := life.NewGroup(context.Background())
	group.Go("api", n.api.Run)
	testkit.Eventually(t, "the socket", func() bool {
		_, err := os.Stat(n.socket)
		return err == nil
	})
	session := n.register(registration("run", 0))
	supervising := n.register(supervisor("run"))
	stream := n.watch(t.Context(), session)
	if _, err := n.sessions.Direct("run", directive("last")); err != nil {
		t.Fatal(err)
	}
	group.Stop()
	if next, err := stream.Recv(); err != nil || next.Directive.GetDirectiveId() != "last" {
		t.Errorf("the last directive: %v, %v", next, err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the watch ended with %v", err)
	}
	if err := group.Wait(); err != nil {
		t.Errorf("run: %v", err)
	}
	if _, err := n.api.RequestCheckpoint(t.Context(), &trainerv1.RequestCheckpointRequest{SessionId: supervising}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("request: %v", err)
	}
	if len(n.orders.started) > 0 {
		t.Errorf("ordered %v", n.orders.started)
	}
	if _, err := n.sessions.Direct("run", directive("too late")); !fault.Is(err, fault.Unavailable) {
		t.Errorf("direct: %v", err)
	}
	if got := testutil.CollectAndCount(n.metrics, metric.AgentTrainerSessions.Name); got != 1 {
		t.Errorf("%d series", got)
	}
}
