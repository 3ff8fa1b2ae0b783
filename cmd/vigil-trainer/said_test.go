package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

func TestSpansThatAreLostAtTheEndAreSaid(t *testing.T) {
	for name, failure := range map[string]error{"all is sent": nil, "nobody takes them": errors.New("no route")} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			calls := 0
			flush := atLast(t.Context(), slog.New(slog.NewTextHandler(&out, nil)), func(ctx context.Context) error {
				if _, ok := ctx.Deadline(); !ok {
					t.Error("training waits for it without end")
				}
				calls++
				return failure
			})
			flush()
			flush()
			if said := strings.Count(out.String(), "no route"); calls != 1 || (said == 1) != (failure != nil) {
				t.Errorf("flushed %d times, and said %q", calls, out.String())
			}
		})
	}
}
