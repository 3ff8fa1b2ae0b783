package metric

import (
	"fmt"
	"strings"
)

// Reference is the dictionary as a page, docs/reference/metrics.md.
func Reference() string {
	var b strings.Builder
	b.WriteString("# Metrics\n\nGenerated from `internal/metric` by `make gen`. Every series of an agent also has the label `node`.\n\n")
	b.WriteString("| name | type | unit | labels | meaning |\n|---|---|---|---|---|\n")
	for _, d := range All() {
		_, _ = fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", d.Name, d.Type, d.Unit, strings.Join(d.Labels, ", "), d.Help)
	}
	return b.String()
}
