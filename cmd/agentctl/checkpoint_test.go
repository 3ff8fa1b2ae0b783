package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func TestStagesAreShownInTheirOrder(t *testing.T) {
	const requested, directed, staged, durable = commonv1.CheckpointState_CHECKPOINT_STATE_REQUESTED,
		commonv1.CheckpointState_CHECKPOINT_STATE_DIRECTED, commonv1.CheckpointState_CHECKPOINT_STATE_STAGED, commonv1.CheckpointState_CHECKPOINT_STATE_DURABLE
	for name, updates := range map[string][][]commonv1.CheckpointState{
		"one by one":           {{requested}, {requested, directed}, {requested, directed, staged}, {requested, directed, staged, durable}},
		"staged came first":    {{requested}, {requested, staged}, {requested, directed, staged}, {requested, directed, staged, durable}},
		"all at once":          {{requested, directed, staged, durable}},
		"nobody says directed": {{requested}, {requested, staged}, {requested, staged, durable}},
	} {
		var out bytes.Buffer
		w := &watch{app: newApp(&out, &out, func(string) string { return "" })}
		for _, states := range updates {
			c := &controlv1.Checkpoint{CheckpointId: "ck", RunId: "run"}
			for _, state := range states {
				c.Stages = append(c.Stages, &controlv1.StageTime{State: state, Time: timestamppb.New(time.Unix(int64(state), 0))})
			}
			if err := w.tell(&controlv1.WatchCheckpointResponse{Checkpoint: c}); err != nil {
				t.Fatal(err)
			}
		}
		var shown []string
		for line := range strings.Lines(out.String()) {
			shown = append(shown, strings.Fields(line)[0])
		}
		want := "requested directed staged durable"
		if name == "nobody says directed" {
			want = "requested staged durable"
		}
		if got := strings.Join(shown, " "); got != want {
			t.Errorf("%s: shown %s, want %s", name, got, want)
		}
	}
}
