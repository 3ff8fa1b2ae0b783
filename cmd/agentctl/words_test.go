package main

import (
	"math"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func TestWords(t *testing.T) {
	at := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(time.Unix(1e9, 0).Add(d)) }
	num := func(v float64) string { return number(&v) }
	for _, tc := range []struct{ got, want string }{
		{word(controlv1.RunState_RUN_STATE_RESTARTING), "restarting"},
		{word(commonv1.FailureKind_FAILURE_KIND_GPU_OOM), "gpu oom"},
		{word(commonv1.CheckpointHealth_CHECKPOINT_HEALTH_UNSPECIFIED), "-"},
		{word(controlv1.RunState(99)), "state 99"},
		{coarse(-time.Second), "0s"},
		{coarse(59 * time.Second), "59s"},
		{coarse(61 * time.Minute), "1h"},
		{coarse(47 * time.Hour), "47h"},
		{coarse(49 * time.Hour), "2d"},
		{exact(4 * time.Millisecond), "4 ms"},
		{exact(12300 * time.Millisecond), "12.3 s"},
		{exact(412 * time.Second), "6 m 52 s"},
		{exact(3*time.Hour + 5*time.Minute), "3 h 05 m"},
		{since(at(0), at(time.Millisecond)), "+1 ms"},
		{since(at(0), at(0)), "+0 ms"},
		{since(at(time.Millisecond), at(0)), "-1 ms"},
		{since(nil, at(0)), "-"},
		{age(time.Unix(1e9, 0), nil), "-"},
		{size(0), "0 B"},
		{size(999), "999 B"},
		{size(312400), "312.4 KB"},
		{size(999_960), "1.0 MB"},
		{size(math.MaxInt64), "9223372.0 TB"},
		{number(nil), "-"},
		{num(0), "0"},
		{num(2048), "2048"},
		{num(0.41234), "0.4123"},
		{num(1234.5), "1.23e+03"},
		{num(0.000012), "1.2e-05"},
		{num(math.NaN()), "NaN"},
		{num(math.Inf(1)), "+Inf"},
		{progress(12, 0), "12"},
		{progress(12, 30), "12/30"},
		{count(1, "rank"), "1 rank"},
		{count(0, "rank"), "0 ranks"},
		{short("abc"), "abc"},
	} {
		if tc.got != tc.want {
			t.Errorf("got %q, want %q", tc.got, tc.want)
		}
	}
}

func TestClockTellsTheDateOfWhatIsLongPast(t *testing.T) {
	now := time.Unix(1e9, 0)
	if got := clock(now, timestamppb.New(now)); len(got) != len("15:04:05") {
		t.Errorf("now is %q", got)
	}
	if got := clock(now, timestamppb.New(now.Add(-48*time.Hour))); len(got) != len("2006-01-02 15:04:05") {
		t.Errorf("the day before yesterday is %q", got)
	}
	if got := clock(now, nil); got != none {
		t.Errorf("unknown is %q", got)
	}
}
