package alerting

import (
	"context"
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
)

// Queue is where deliveries wait, durable and perhaps shared with other
// replicas. All methods are safe for concurrent use.
//
// A delivery is in the queue from the transaction that made it until
// [Queue.Delivered] or [Queue.Fail]. Of one incident and receiver only the
// oldest that is still in the queue is ever leased, so that nobody is told
// that an incident began after being told that it is over.
type Queue interface {
	// Lease gives up to limit deliveries that are due, the oldest first, counts
	// a try of each, and keeps them from being given again until the lease runs
	// out. It does not wait: none is an empty answer.
	Lease(ctx context.Context, limit int, lease time.Duration) ([]alert.Delivery, error)
	// Delivered ends a delivery that its receiver took.
	Delivered(ctx context.Context, id string, at time.Time) error
	// Retry ends the lease and makes the delivery due at a time.
	Retry(ctx context.Context, id string, notBefore time.Time, cause string) error
	// Fail ends a delivery that is given up.
	Fail(ctx context.Context, id string, cause string) error
	// Changed gives a channel that is closed when the queue changes next.
	Changed() <-chan struct{}
}
