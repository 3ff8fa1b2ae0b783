package store

import (
	"context"
	"sync"
)

type riderKey struct{}

// rider is written with the first change that is made under its context.
type rider struct {
	record func(*Tx) error

	mu      sync.Mutex
	written bool
}

// WithRider has record written by the first [Store.Update] under the context
// that commits, in its transaction: both are there afterwards, or neither. So
// nothing is changed without the record of who changed it. Written tells
// whether that has happened.
func WithRider(ctx context.Context, record func(*Tx) error) (_ context.Context, written func() bool) {
	r := &rider{record: record}
	return context.WithValue(ctx, riderKey{}, r), func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.written
	}
}

func riderOf(ctx context.Context) *rider {
	r, _ := ctx.Value(riderKey{}).(*rider)
	return r
}

// write writes the record unless an earlier transaction did.
func (r *rider) write(tx *Tx) error {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.written {
		return nil
	}
	return r.record(tx)
}

// committed notes that the transaction has been committed.
func (r *rider) committed() {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.written = true
}
