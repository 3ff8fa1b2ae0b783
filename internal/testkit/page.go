package testkit

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Page compares a generated page of the documentation with the file that it is
// kept in; where update is set, as `make gen` does, it writes that first.
func Page(t testing.TB, path, made string, update bool) {
	t.Helper()
	if update {
		if err := os.WriteFile(path, []byte(made), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(kept), made); diff != "" {
		t.Errorf("what comes out is not what %s says; is it right? Then run make gen (-documented +got):\n%s", path, diff)
	}
}
