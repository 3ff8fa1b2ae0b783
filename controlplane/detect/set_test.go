package detect_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/controlplane/detect"
)

// TestAShadowRuleExplainsNothing that counts, and is explained itself.
func TestAShadowRuleExplainsNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		four, six bool // shadow
		want      []string
	}{
		"neither":       {false, false, []string{"four@12"}},
		"the explainer": {true, false, []string{"four@12 shadow", "six@12"}},
		"the explained": {false, true, []string{"four@12"}},
		"both":          {true, true, []string{"four@12 shadow"}},
	} {
		four, six := multiples("four", 4), multiples("six", 6)
		six.Under = []string{"four"}
		four.Shadow, six.Shadow = tc.four, tc.six
		var got []string
		for _, f := range detect.NewBank([]detect.Rule{four, six}).Observe(step("a", 12)) {
			text := fmt.Sprint(f.GetKind(), "@", f.GetStep())
			if f.GetShadow() {
				text += " shadow"
			}
			got = append(got, text)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}
