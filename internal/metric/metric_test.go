package metric

import (
	"regexp"
	"strings"
	"testing"
)

func TestDictionaryIsWellFormed(t *testing.T) {
	name := regexp.MustCompile(`^vigil_(host|process|cgroup|fabric|kernel|gpu|run|agent|control)_[a-z0-9_]+$`)
	seen := map[string]bool{}
	for _, d := range All() {
		if seen[d.Name] {
			t.Errorf("%s stands twice in the dictionary", d.Name)
		}
		seen[d.Name] = true
		if !name.MatchString(d.Name) {
			t.Errorf("%s is not a metric name", d.Name)
		}
		if (d.Type == Counter) != strings.HasSuffix(d.Name, "_total") {
			t.Errorf("%s: counters and only counters end in _total", d.Name)
		}
		base := strings.TrimSuffix(d.Name, "_total")
		if d.Unit != "1" && !strings.HasSuffix(base, "_"+d.Unit) {
			t.Errorf("%s does not end in its unit %s", d.Name, d.Unit)
		}
		if !strings.HasSuffix(d.Help, ".") {
			t.Errorf("%s: the help is not a sentence", d.Name)
		}
	}
}

func TestLookup(t *testing.T) {
	if d, ok := Lookup("vigil_run_loss"); !ok || d.Name != RunLoss.Name {
		t.Errorf("Lookup = %v, %v", d, ok)
	}
	if _, ok := Lookup("vigil_run_los"); ok {
		t.Error("a name that is not in the dictionary was found")
	}
}
