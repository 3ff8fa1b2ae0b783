// Package notify is the contract of a notifier, which tells one receiver of an
// incident, and what the notifiers that speak HTTP share.
//
// A notifier is one package: its Config, its New, and `var Kind =
// plug.Of("name", Config{}, New)`, which alerting/builtin.go lists. Package
// notifytest has the tests that every notifier must pass.
package notify

import (
	"context"
	"errors"
	"time"

	"github.com/vigil-ml/vigil/alerting/alert"
)

// Notifier tells one receiver. It is safe for concurrent use.
type Notifier interface {
	// Notify makes one try and returns when the receiver took it or did not. It
	// keeps to ctx, which always has a deadline, and never tries again itself.
	//
	// The error says what to do: a [PermanentError] that another try is useless,
	// a [ThrottledError] when to try again, and any other to try again later. No
	// error text holds a secret such as the receiver's URL. A delivery may come
	// twice, when nobody knows whether the first try arrived; both carry the
	// same key.
	Notify(ctx context.Context, delivery alert.Delivery) error
}

// PermanentError is a refusal that another try does not change.
type PermanentError struct{ Err error }

// Error is the cause's text.
func (e *PermanentError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *PermanentError) Unwrap() error { return e.Err }

// Permanent marks an error as final; nil stays nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &PermanentError{Err: err}
}

// IsPermanent tells whether another try is useless.
func IsPermanent(err error) bool {
	_, ok := errors.AsType[*PermanentError](err)
	return ok
}

// ThrottledError is a receiver that asks to be left alone for a while.
type ThrottledError struct {
	Err error
	// After is how long, from the moment of the answer on; more than 0.
	After time.Duration
}

// Error is the cause's text.
func (e *ThrottledError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *ThrottledError) Unwrap() error { return e.Err }

// Throttled marks an error with the wait that the receiver asks for; nil stays
// nil.
func Throttled(err error, after time.Duration) error {
	if err == nil {
		return nil
	}
	return &ThrottledError{Err: err, After: after}
}

// ThrottledFor gives the wait that the receiver asks for; false when it asks
// for none.
func ThrottledFor(err error) (time.Duration, bool) {
	t, ok := errors.AsType[*ThrottledError](err)
	if !ok {
		return 0, false
	}
	return t.After, true
}
