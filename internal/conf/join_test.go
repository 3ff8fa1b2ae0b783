package conf

import (
	"errors"
	"testing"

	"github.com/vigil-ml/vigil/internal/fault"
)

func TestJoin(t *testing.T) {
	late, early := Problems{{File: "a", Line: 9, Path: "z", Text: "x"}}, Problems{{File: "a", Line: 2, Path: "b", Text: "y"}}
	err := Join(nil, fault.Mark(fault.Invalid, late), early)
	if want := "a:2: b: y\na:9: z: x"; err == nil || err.Error() != want || !fault.Is(err, fault.Invalid) {
		t.Errorf("error %v, want %s", err, want)
	}
	if err := Join(nil, nil); err != nil {
		t.Errorf("of nothing: %v", err)
	}
	other := errors.New("the disk is gone")
	if err := Join(late, other); !errors.Is(err, other) {
		t.Errorf("error %v, want %v", err, other)
	}
}
