package fault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestKindSurvivesWrapping(t *testing.T) {
	base := New(NotFound, "run %q is not known", "r1")
	wrapped := fmt.Errorf("describe run: %w", base)
	if got := KindOf(wrapped); got != NotFound {
		t.Errorf("KindOf = %v, want %v", got, NotFound)
	}
	if got := status.Code(GRPC(wrapped)); got != codes.NotFound {
		t.Errorf("gRPC code = %v, want %v", got, codes.NotFound)
	}
	if got := ExitCode(wrapped); got != 66 {
		t.Errorf("exit code = %d, want 66", got)
	}
}

func TestKindOf(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want Kind
	}{
		{errors.New("plain"), Internal},
		{context.Canceled, Canceled},
		{fmt.Errorf("x: %w", context.DeadlineExceeded), Deadline},
		{&fs.PathError{Op: "open", Err: fs.ErrNotExist}, NotFound},
		{status.Error(codes.Unavailable, "away"), Unavailable},
		{Mark(Corrupt, errors.New("bits")), Corrupt},
	} {
		if got := KindOf(tc.err); got != tc.want {
			t.Errorf("KindOf(%v) = %v, want %v", tc.err, got, tc.want)
		}
	}
}

func TestEveryKindCrossesGRPC(t *testing.T) {
	for k := Internal; k <= Unsupported; k++ {
		back := FromGRPC(GRPC(New(k, "text")))
		if KindOf(back) != k || back.Error() != "text" {
			t.Errorf("kind %v came back as %v %q", k, KindOf(back), back)
		}
	}
}

func TestHintReachesTheCaller(t *testing.T) {
	err := fmt.Errorf("connect: %w", WithHint(New(Unavailable, "no answer"), "start the control plane"))
	if HintOf(err) != "start the control plane" {
		t.Errorf("hint = %q", HintOf(err))
	}
	want := "connect: no answer (start the control plane)"
	if got := status.Convert(GRPC(err)).Message(); got != want {
		t.Errorf("message = %q, want %q", got, want)
	}
}

func TestNilStaysNil(t *testing.T) {
	if Mark(Invalid, nil) != nil || GRPC(nil) != nil || FromGRPC(nil) != nil || WithHint(nil, "x") != nil {
		t.Error("nil became an error")
	}
	if ExitCode(nil) != 0 || Is(nil, Internal) {
		t.Error("nil has a kind")
	}
}
