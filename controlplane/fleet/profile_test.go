package fleet

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func TestRequestProfile(t *testing.T) {
	s := openStore(t)
	f := newFleet(t, s)
	putRun(t, s, "r", controlv1.RunState_RUN_STATE_RUNNING, "n1", "n2")
	putRun(t, s, "done", controlv1.RunState_RUN_STATE_SUCCEEDED, "n1")
	putRun(t, s, "away", controlv1.RunState_RUN_STATE_RUNNING, "n3")
	connect(t, f, "n1")
	ask := func(request ProfileRequest) (asked *controlv1.ProfileRunResponse, err error) {
		err = s.Update(t.Context(), func(tx *store.Tx) error {
			asked, err = f.RequestProfile(tx, request)
			return err
		})
		return asked, err
	}
	for _, tc := range []struct {
		request ProfileRequest
		kind    fault.Kind
	}{
		{ProfileRequest{RunID: "none"}, fault.NotFound},
		{ProfileRequest{RunID: "done"}, fault.Precondition},
		{ProfileRequest{RunID: "away"}, fault.Unavailable},
		{ProfileRequest{RunID: "r", Steps: MaxProfileSteps + 1}, fault.Invalid},
		{ProfileRequest{RunID: "r", Ranks: []uint32{9}}, fault.Invalid},
	} {
		if _, err := ask(tc.request); !fault.Is(err, tc.kind) {
			t.Errorf("%+v: %v, want %s", tc.request, err, tc.kind)
		}
	}
	asked, err := ask(ProfileRequest{RunID: "r", Ranks: []uint32{0, 0}, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	want := &commonv1.ProfileOrder{RunId: "r", ProfileId: asked.GetProfileId(), Steps: DefaultProfileSteps, Ranks: []uint32{0}}
	var nodes []string
	for _, c := range view(t, s, func(tx *store.Tx) ([]store.Command, error) { return tx.OpenCommands("") }) {
		nodes = append(nodes, c.Node)
		if diff := cmp.Diff(want, c.Wire.GetProfile(), protocmp.Transform()); diff != "" {
			t.Errorf("order for %s (-want +got):\n%s", c.Node, diff)
		}
		if got := c.Deadline.Sub(c.Created); got != time.Second || !c.Deadline.Equal(asked.GetDeadline().AsTime()) {
			t.Errorf("deadline is %v after the request", got)
		}
	}
	if diff := cmp.Diff([]string{"n1", "n2"}, nodes); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
}
