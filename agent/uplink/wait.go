package uplink

import (
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"

	"github.com/vigil-ml/vigil/internal/fault"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

// maxHint bounds the wait that a control plane can ask for.
const maxHint = 10 * time.Minute

// jitter shortens a duration by up to half, so that agents that lost the same
// control plane do not all come back at once.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(max(d/2, 1))
}

// spread lengthens a wait that the control plane asked for by up to half, and
// by a little more: it is a time before which not to come, and all agents were
// told the same.
func spread(asked, little time.Duration) time.Duration {
	return asked + rand.N(asked/2+max(little, 1))
}

func bounded(d time.Duration) time.Duration { return min(max(d, 0), maxHint) }

// drained is the end of a session that the control plane asked for.
type drained struct{ after time.Duration }

func (d drained) Error() string {
	return fmt.Sprintf("control plane asks to reconnect after %v", d.after)
}

func newDrained(d *agentv1.Drain) drained {
	return drained{after: bounded(d.GetReconnectAfter().AsDuration())}
}

// busy is a refusal that says when to come again.
type busy struct {
	error
	after time.Duration
}

func (b busy) Unwrap() error { return b.error }

// fromServer gives the error of a stream its kind, the server's own text, and
// the time to wait where the server says one (google.rpc.RetryInfo).
func fromServer(err error) error {
	answer, ok := status.FromError(err)
	err = fault.FromGRPC(err)
	if !ok {
		return err
	}
	for _, detail := range answer.Details() {
		if info, is := detail.(*errdetails.RetryInfo); is {
			return busy{err, bounded(info.GetRetryDelay().AsDuration())}
		}
	}
	return err
}
