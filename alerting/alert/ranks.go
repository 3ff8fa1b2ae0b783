package alert

import (
	"fmt"
	"strings"

	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Ranks names the ranks that a finding blames: "3", "4, 5"; empty where nothing
// tells who is to blame. Of many, the first eight and how many more.
func Ranks(f *controlv1.Finding) string {
	ranks := f.GetRanks()
	switch {
	case f.GetBlameUnknown():
		return ""
	case len(ranks) == 0:
		return fmt.Sprint(f.GetRank())
	}
	const most = 8
	var names []string
	for _, rank := range ranks[:min(most, len(ranks))] {
		names = append(names, fmt.Sprint(rank))
	}
	text := strings.Join(names, ", ")
	if more := len(ranks) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
