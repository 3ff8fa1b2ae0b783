package export

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestLift: of several attributes for one word the same one is taken each time,
// and the others stay.
func TestLift(t *testing.T) {
	for range 50 {
		fields, attributes := object{}, object{
			"err": "second", "error": "first", "exception.message": "best", "exception.type": "ValueError", "n": 1,
		}
		lift(fields, attributes)
		want := []object{
			{"error": object{"type": "ValueError", "message": "best"}}, {"err": "second", "error": "first", "n": 1},
		}
		if diff := cmp.Diff(want, []object{fields, attributes}); diff != "" {
			t.Fatalf("-want +got:\n%s", diff)
		}
	}
	fields, attributes := object{}, object{"error": 5}
	lift(fields, attributes)
	if diff := cmp.Diff([]object{{}, {"error": 5}}, []object{fields, attributes}); diff != "" {
		t.Errorf("a number is no message (-want +got):\n%s", diff)
	}
}
