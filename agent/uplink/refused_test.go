package uplink

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vigil-ml/vigil/internal/testkit"
)

// A control plane that welcomes the agent and then refuses what it says is
// complained of once, at the pace of a refusal, until it acknowledges.
func TestRefusedSessionsAreComplainedOfOnce(t *testing.T) {
	for _, code := range []codes.Code{codes.InvalidArgument, codes.FailedPrecondition} {
		t.Run(code.String(), func(t *testing.T) {
			c := newControl()
			const refusals = 5
			c.opened = func(session int, _ serverStream) error {
				if session > refusals {
					return nil
				}
				return status.Error(code, "frame 7 is no good")
			}
			address, _ := c.serve(t, "")
			a := startAgent(t, t.TempDir(), address, nil, func(config *Config) {
				config.BackoffMin, config.BackoffMax = time.Hour, time.Hour // a backoff would never get there
				config.RefusedRetry = time.Millisecond
			})
			a.report(t, 1, 1)
			allAcknowledged(t, a)
			testkit.Eventually(t, "the log", func() bool { return strings.Contains(a.log.String(), "takes telemetry again") })
			if got := see(c, func() int { return c.sessions }); got != refusals+1 {
				t.Errorf("%d sessions; want %d", got, refusals+1)
			}
			if n := strings.Count(a.log.String(), "refuses this agent"); n != 1 {
				t.Errorf("the refusal stands %d times in the log, want once:\n%s", n, a.log)
			}
			if n := strings.Count(a.log.String(), "connected to control plane"); n != 1 {
				t.Errorf("the connection stands %d times in the log, want once:\n%s", n, a.log)
			}
		})
	}
}
