package metric

import (
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the reference page anew")

// TestReferenceIsFresh compares the page with the dictionary; `make gen` runs
// it with -update.
func TestReferenceIsFresh(t *testing.T) {
	const page = "../../docs/reference/metrics.md"
	if *update {
		if err := os.WriteFile(page, []byte(Reference()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Reference(), string(got)); diff != "" {
		t.Errorf("run make gen; -want +got:\n%s", diff)
	}
}
