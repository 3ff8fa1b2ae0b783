package alert

import "time"

// Result is how a try to deliver went.
type Result int

// The results.
const (
	// Delivered: the receiver took it.
	Delivered Result = 1 + iota
	// Retry: it did not, and is tried again at Outcome.NotBefore.
	Retry
	// PutBack: it was not tried at all, and is due at Outcome.NotBefore.
	PutBack
	// Failed: it is given up, and becomes a dead letter.
	Failed
)

// Outcome is what became of a leased delivery.
type Outcome struct {
	// ID is the delivery's.
	ID     string
	Result Result
	// At is when.
	At time.Time
	// NotBefore is when it is due again; for Retry and PutBack.
	NotBefore time.Time
	// Cause is for a person: why it was not delivered.
	Cause string
	// StandIn is the receiver that is told in this one's place; empty for none. It
	// is told once, however often that is said.
	StandIn string
}

// TrySince is from when on the time that a delivery may be tried for counts.
func (d Delivery) TrySince() time.Time {
	if d.Since.After(d.Created) {
		return d.Since
	}
	return d.Created
}
