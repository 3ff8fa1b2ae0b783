package alert_test

import (
	"testing"

	"github.com/vigil-ml/vigil/alerting/alert"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func TestRanks(t *testing.T) {
	for want, f := range map[string]*controlv1.Finding{
		"0":                                 {},
		"7":                                 {Rank: 7},
		"":                                  {BlameUnknown: true},
		"4, 5":                              {Rank: 4, Ranks: []uint32{4, 5}},
		"0, 1, 2, 3, 4, 5, 6, 7 and 1 more": {Ranks: []uint32{0, 1, 2, 3, 4, 5, 6, 7, 8}},
	} {
		if got := alert.Ranks(f); got != want {
			t.Errorf("%v: %q, want %q", f, got, want)
		}
	}
}
