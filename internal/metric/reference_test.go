package metric

import (
	"flag"
	"testing"

	"github.com/vigil-ml/vigil/internal/testkit"
)

var update = flag.Bool("update", false, "write the reference page anew")

// TestReferenceIsFresh compares the page with the dictionary; `make gen` runs
// it with -update.
func TestReferenceIsFresh(t *testing.T) {
	testkit.Page(t, "../../docs/reference/metrics.md", Reference(), *update)
}
