package main

import (
	"fmt"

	"github.com/vigil-ml/vigil/controlplane/detect/replay"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// verdict is what a person said of a recorded finding, and whether the rules
// find it again.
type verdict struct {
	Finding string `json:"finding_id"`
	Kind    string `json:"kind"`
	Step    int64  `json:"step"`
	Verdict string `json:"verdict"`
	Note    string `json:"note,omitempty"`
	Again   bool   `json:"again"`
}

// verdicts gives every recorded finding that a person said something of; name
// gives the name of a kind.
func verdicts(result *replay.Result, name func(kind string) string) (all []verdict) {
	for _, record := range result.Recorded {
		said := record.GetFeedback()
		if said.GetVerdict() == controlv1.Verdict_VERDICT_UNSPECIFIED {
			continue
		}
		f := record.GetFinding()
		_, again := result.Again(f)
		all = append(all, verdict{f.GetFindingId(), name(f.GetKind()), f.GetStep(), word(said.GetVerdict()), said.GetNote(), again})
	}
	return all
}

// verdictTable says of each whether the rules do better now.
func verdictTable(p *page, all []verdict) {
	if len(all) == 0 {
		return
	}
	p.line(cell{text: "  what people said of the findings that were recorded:"})
	var rows [][]cell
	for _, v := range all {
		now, style := "not found any more", good
		if v.Again {
			now, style = "found again", bad
		}
		if v.Verdict == "confirmed" { // what was right should be found
			if style = bad; v.Again {
				style = good
			}
		}
		rows = append(rows, []cell{{text: v.Finding}, {text: v.Kind}, {text: fmt.Sprint(v.Step)}, {text: v.Verdict}, {now, style}, {text: cleanText(v.Note)}})
	}
	p.table(2, []column{{head: "FINDING"}, {head: "KIND"}, {head: "STEP", right: true}, {head: "PEOPLE SAID"}, {head: "NOW"}, {head: "NOTE"}}, rows)
}
