package api

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
)

func TestBoundary(t *testing.T) {
	for name, tc := range map[string]struct {
		handle func() error
		code   codes.Code
		says   string
		hint   string
	}{
		"success":      {func() error { return nil }, codes.OK, "", ""},
		"kind":         {func() error { return fmt.Errorf("find x: %w", fault.New(fault.NotFound, "there is none")) }, codes.NotFound, "find x: there is none", ""},
		"hint":         {func() error { return fault.WithHint(fault.New(fault.Precondition, "it ended"), "look") }, codes.FailedPrecondition, "it ended (look)", "look"},
		"without kind": {func() error { return errors.New("disk") }, codes.Internal, "disk", ""},
		"panic":        {func() error { panic("oops") }, codes.Internal, "oops", ""},
		"caller left":  {func() error { return context.Canceled }, codes.Canceled, "canceled", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBoundary(Deps{Log: testkit.Logger(t), Clock: time.Now, Metrics: prometheus.NewRegistry()})
			info := &grpc.UnaryServerInfo{FullMethod: "/S/M"}
			_, err := b.unary(t.Context(), nil, info, func(context.Context, any) (any, error) { return nil, tc.handle() })
			s := status.Convert(err)
			if s.Code() != tc.code || !strings.Contains(s.Message(), tc.says) {
				t.Errorf("left as %v %q, want %v with %q", s.Code(), s.Message(), tc.code, tc.says)
			}
			if got := testutil.ToFloat64(b.requests.WithLabelValues("/S/M", tc.code.String())); got != 1 {
				t.Errorf("counted %v calls with code %v, want 1", got, tc.code)
			}
			var hint string
			for _, detail := range s.Details() {
				hint = detail.(*errdetails.Help).Links[0].Description
			}
			if hint != tc.hint {
				t.Errorf("hint %q, want %q", hint, tc.hint)
			}
		})
	}
}
