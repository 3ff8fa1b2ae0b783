package bus

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestHistoryWithNodes has a run's frames with those of its nodes that have no
// run between them: not from before the run, not from after it, and not those
// of other nodes and runs.
func TestHistoryWithNodes(t *testing.T) {
	b := openBus(t, testConfig(t.TempDir()))
	position := map[string]uint64{}
	put := func(node, run string) {
		position[node]++
		publish(t, b, frame(node, run, 1, position[node]))
	}
	for _, f := range [][2]string{
		{"a", ""}, {"a", "r"}, {"a", ""}, {"c", ""}, {"b", "other"}, {"b", ""}, {"b", "r"}, {"a", ""},
	} {
		put(f[0], f[1])
	}
	for _, tc := range []struct {
		run   string
		nodes []string
		want  []string
	}{
		{"r", []string{"a", "b"}, []string{"a r", "a ", "b ", "b r"}},
		{"r", []string{"b"}, []string{"a r", "b ", "b r"}},
		{"r", nil, []string{"a r", "b r"}},
		{"other", []string{"a", "b", "c"}, []string{"b other"}},
		{"none", []string{"a"}, nil},
	} {
		var got []string
		err := b.HistoryWithNodes(t.Context(), tc.run, tc.nodes, false, func(d Delivery) error {
			got = append(got, fmt.Sprint(d.Node, " ", d.Batch.GetRunId()))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("run %s with %v: -want +got:\n%s", tc.run, tc.nodes, diff)
		}
	}
}
