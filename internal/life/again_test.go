package life

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestAgain holds when a loop that fails is begun again, and that a success in
// between has the waits begin anew.
func TestAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var at []time.Duration
		var failures int
		began, broken := time.Now(), errors.New("broken")
		worked := false
		err := Again(ctx, Retry{
			First: time.Second, Most: 4 * time.Second,
			Failed: func(err error) {
				if !errors.Is(err, broken) {
					t.Errorf("told of %v", err)
				}
				failures++
			},
			Worked: func() bool { return worked },
		}, func(context.Context) error {
			at = append(at, time.Since(began))
			worked = len(at) == 5
			if len(at) == 7 {
				cancel()
			}
			return broken
		})
		if err != nil || failures != 6 {
			t.Errorf("ended with %v after %d failures", err, failures)
		}
		want := []time.Duration{0, 1, 3, 7, 11, 12, 14}
		for i := range want {
			want[i] *= time.Second
		}
		if diff := cmp.Diff(want, at); diff != "" {
			t.Error(diff)
		}
	})
}
