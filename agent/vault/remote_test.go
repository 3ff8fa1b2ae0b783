package vault

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

// TestWhoGoesAwayDoesNotSayThatTheControlPlaneDid: the others would turn to files
// for it.
func TestWhoGoesAwayDoesNotSayThatTheControlPlaneDid(t *testing.T) {
	for name, after := range map[string]time.Duration{"before a call": 0, "in a pause": againAfter / 2, "away": time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer time.AfterFunc(after, cancel).Stop()
			meet := func(context.Context, *agentv1.MeetRequest) (*agentv1.MeetResponse, error) {
				return nil, fault.New(fault.Unavailable, "cut off")
			}
			err := newRemote(meet, "run", time.Minute).look(ctx, 0)
			if away := errors.Is(err, errAway); away != (name == "away") || errors.Is(err, context.Canceled) == away {
				t.Errorf("cancelled %s: %v", name, err)
			}
		})
	}
}
