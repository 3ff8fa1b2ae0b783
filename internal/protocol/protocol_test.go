package protocol

import (
	"strings"
	"testing"

	"github.com/vigil-ml/vigil/internal/fault"
)

func TestCheckNode(t *testing.T) {
	for name, good := range map[string]bool{
		"n1": true, "gpu-07.rack_3": true, strings.Repeat("n", 253): true,
		"": false, "-": false, ".": false, "a b": false, "a/b": false, "n\n": false, "ä": false, strings.Repeat("n", 254): false, "a-": false,
	} {
		err := CheckNode(name)
		if (err == nil) != good || (err != nil && !fault.Is(err, fault.Invalid)) {
			t.Errorf("CheckNode(%q) = %v", name, err)
		}
	}
}
