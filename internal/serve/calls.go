package serve

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/tap"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Calls bounds the calls of a server with [PeerCredentials], before their messages
// are read.
type Calls struct {
	// User is how many calls one user of the machine may have under way, streams
	// too; more fail with [fault.Exhausted]. At least 1.
	User int
	// Arrive is how long the first message of a call may take to come; a call whose
	// message does not is ended. More than 0.
	Arrive time.Duration
	// Refused is told of each call that is one too many, and must not block; it may
	// be nil.
	Refused func(uid int)
}

// Options gives what grpc.NewServer takes for it. It has no part in the interceptors
// of grpc.UnaryInterceptor and grpc.StreamInterceptor.
func (c Calls) Options() []grpc.ServerOption {
	b := &callBounds{Calls: c, open: map[int]int{}}
	return []grpc.ServerOption{
		grpc.InTapHandle(b.begin),
		grpc.ChainUnaryInterceptor(func(ctx context.Context, in any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			arrived(ctx)
			return next(ctx, in)
		}),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			return next(srv, arriving{stream})
		}),
	}
}

type callBounds struct {
	Calls

	mu   sync.Mutex
	open map[int]int // calls under way by user
}

type arrivalKey struct{}

// begin sees a call's head.
func (b *callBounds) begin(ctx context.Context, _ *tap.Info) (context.Context, error) {
	uid, known, _ := PeerUser(ctx)
	if !known {
		uid = unknownUser
	}
	if !b.take(uid) {
		if b.Refused != nil {
			b.Refused(uid)
		}
		return ctx, fault.GRPC(fault.New(fault.Exhausted, "user %d has %d calls under way; no more are taken", uid, b.User))
	}
	context.AfterFunc(ctx, func() { b.give(uid) })
	limited, cancel := context.WithCancel(ctx)
	return context.WithValue(limited, arrivalKey{}, time.AfterFunc(b.Arrive, cancel)), nil
}

func (b *callBounds) take(uid int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open[uid] >= b.User {
		return false
	}
	b.open[uid]++
	return true
}

func (b *callBounds) give(uid int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open[uid]--; b.open[uid] == 0 {
		delete(b.open, uid)
	}
}

// arrived notes that the call's message is there.
func arrived(ctx context.Context) {
	if timer, ok := ctx.Value(arrivalKey{}).(*time.Timer); ok {
		timer.Stop()
	}
}

// arriving is a stream whose first message has a time to come.
type arriving struct{ grpc.ServerStream }

// RecvMsg reads a message.
func (s arriving) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err == nil {
		arrived(s.Context())
	}
	return err
}
