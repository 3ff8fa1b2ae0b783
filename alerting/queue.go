package alerting

import (
	"context"
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
)

// Queue is where deliveries wait, durable and perhaps shared with other
// replicas. All methods are safe for concurrent use.
//
// A delivery is in the queue from the transaction that made it until it is
// settled as delivered or failed. Of one incident and receiver only the oldest
// that is still in the queue is ever leased, so that nobody is told that an
// incident began after being told that it is over.
type Queue interface {
	// Lease gives up to limit deliveries that are due, the oldest first, counts
	// a try of each, and keeps them from being given again until the lease runs
	// out. Those of the receivers in except stay where they are. It does not
	// wait: none is an empty answer.
	Lease(ctx context.Context, limit int, lease time.Duration, except ...string) ([]alert.Delivery, error)
	// Settle writes down what became of leased deliveries, all in one
	// transaction. What is settled already stays as it is.
	Settle(ctx context.Context, outcomes ...alert.Outcome) error
	// Changed gives a channel that is closed when the queue changes next.
	Changed() <-chan struct{}
}

// Trouble is told which receivers fail. A call that fails is made again.
type Trouble interface {
	// ReceiverFailing says that a receiver has taken nothing since a time. The
	// cause is for a person and has no secrets.
	ReceiverFailing(ctx context.Context, receiver, cause string, since time.Time) error
	// ReceiverWell says that it takes deliveries again.
	ReceiverWell(ctx context.Context, receiver string, at time.Time) error
}
