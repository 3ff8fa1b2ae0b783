// Package fault gives every error a kind, so that one error reads the same in
// a gRPC status, an HTTP response and a program's exit code.
//
// An error without a kind is [Internal]. A kind is attached where the cause is
// known and survives wrapping with %w. All functions are safe for concurrent
// use.
package fault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Kind is what sort of error it is: what the one who sees it can do about it.
type Kind uint8

// The kinds.
const (
	Internal        Kind = iota // a bug, or an engine below that failed
	Invalid                     // the input is wrong; repeating it will not help
	NotFound                    // the thing named does not exist
	Exists                      // the thing is already there
	Precondition                // the thing is not in a state that allows it
	Unavailable                 // a part that is needed is away; try again later
	Exhausted                   // a bound was reached; try again later
	Deadline                    // it took longer than it may
	Canceled                    // whoever asked gave up
	Denied                      // the caller is known and may not
	Unauthenticated             // the caller is not known
	Corrupt                     // stored data is damaged
	Unsupported                 // not possible here
)

// traits is one row of the table of kinds.
type traits struct {
	name string
	code codes.Code
	http int
	exit int
}

// traitsOf gives a kind's row. Exit codes follow sysexits.h where it has a
// fitting one; 1 is the rest.
func traitsOf(k Kind) traits {
	switch k {
	case Invalid:
		return traits{"invalid", codes.InvalidArgument, 400, 64}
	case NotFound:
		return traits{"not found", codes.NotFound, 404, 66}
	case Exists:
		return traits{"exists", codes.AlreadyExists, 409, 73}
	case Precondition:
		return traits{"precondition", codes.FailedPrecondition, 400, 65}
	case Unavailable:
		return traits{"unavailable", codes.Unavailable, 503, 69}
	case Exhausted:
		return traits{"exhausted", codes.ResourceExhausted, 429, 75}
	case Deadline:
		return traits{"deadline", codes.DeadlineExceeded, 504, 75}
	case Canceled:
		return traits{"canceled", codes.Canceled, 499, 130}
	case Denied:
		return traits{"denied", codes.PermissionDenied, 403, 77}
	case Unauthenticated:
		return traits{"unauthenticated", codes.Unauthenticated, 401, 77}
	case Corrupt:
		return traits{"corrupt", codes.DataLoss, 500, 76}
	case Unsupported:
		return traits{"unsupported", codes.Unimplemented, 501, 70}
	default:
		return traits{"internal", codes.Internal, 500, 1}
	}
}

// String gives the kind's name.
func (k Kind) String() string { return traitsOf(k).name }

// HTTPStatus gives the HTTP status code of the kind.
func (k Kind) HTTPStatus() int { return traitsOf(k).http }

// kinded is an error with a kind and, perhaps, a hint and a time to wait.
type kinded struct {
	kind  Kind
	hint  string
	retry time.Duration
	err   error
}

func (e *kinded) Error() string { return e.err.Error() }
func (e *kinded) Unwrap() error { return e.err }

// GRPCStatus makes the error read as its status to grpc-go.
func (e *kinded) GRPCStatus() *status.Status {
	text := e.err.Error()
	if e.hint != "" {
		text += " (" + e.hint + ")"
	}
	return asked(status.New(traitsOf(e.kind).code, text), e)
}

// asked adds when to come again, as google.rpc.RetryInfo, where an error says it.
func asked(s *status.Status, err error) *status.Status {
	after, ok := RetryAfterOf(err)
	if !ok {
		return s
	}
	detailed, detailErr := s.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	if detailErr != nil {
		return s // it is a status of success, which has no details
	}
	return detailed
}

// New makes an error of a kind; the format is that of [fmt.Errorf].
func New(kind Kind, format string, args ...any) error {
	return &kinded{kind: kind, err: fmt.Errorf(format, args...)}
}

// Mark gives an error a kind; nil stays nil.
func Mark(kind Kind, err error) error {
	if err == nil {
		return nil
	}
	return &kinded{kind: kind, err: err}
}

// WithHint adds one sentence that tells a person what to do; nil stays nil.
func WithHint(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &kinded{kind: KindOf(err), hint: hint, err: err}
}

// WithRetry says how long to wait before trying again, which gRPC sends as
// google.rpc.RetryInfo and HTTP as Retry-After; nil stays nil.
func WithRetry(err error, after time.Duration) error {
	if err == nil {
		return nil
	}
	return &kinded{kind: KindOf(err), retry: after, err: err}
}

// RetryAfterOf gives the outermost time to wait; false where none is said.
func RetryAfterOf(err error) (after time.Duration, ok bool) {
	for {
		k, is := errors.AsType[*kinded](err)
		if !is {
			return 0, false
		}
		if k.retry > 0 {
			return k.retry, true
		}
		err = k.err
	}
}

// HintOf gives the outermost hint, or "".
func HintOf(err error) string {
	for err != nil {
		if k, ok := errors.AsType[*kinded](err); ok {
			if k.hint != "" {
				return k.hint
			}
			err = k.err
			continue
		}
		return ""
	}
	return ""
}

// KindOf gives an error's kind: its own, or what the standard library and
// gRPC say of it, or [Internal].
func KindOf(err error) Kind {
	if k, ok := errors.AsType[*kinded](err); ok {
		return k.kind
	}
	switch {
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return Deadline
	case errors.Is(err, fs.ErrNotExist):
		return NotFound
	case errors.Is(err, fs.ErrPermission):
		return Denied
	}
	if s, ok := status.FromError(err); ok && err != nil {
		return kindOfCode(s.Code())
	}
	return Internal
}

// Is tells whether an error has a kind.
func Is(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }

// GRPC turns an error into one that grpc-go sends with the right code; nil
// stays nil.
func GRPC(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	if hint := HintOf(err); hint != "" {
		text += " (" + hint + ")"
	}
	return asked(status.New(traitsOf(KindOf(err)).code, text), err).Err()
}

// FromGRPC turns what a gRPC call returned into an error of the right kind
// whose text is the server's own; nil stays nil.
func FromGRPC(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	return &kinded{kind: kindOfCode(s.Code()), err: errors.New(s.Message())}
}

// ExitCode gives the exit code of a program that ends with an error; 0 for
// nil.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	return traitsOf(KindOf(err)).exit
}

func kindOfCode(code codes.Code) Kind {
	for k := Internal; k <= Unsupported; k++ {
		if traitsOf(k).code == code {
			return k
		}
	}
	return Internal
}
