package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/controlplane/detect/replay"
	"github.com/vigil-ml/vigil/controlplane/detect/rules"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

func detectReplay(a *app) *cobra.Command {
	var as, settings string
	cmd := &cobra.Command{
		Use:   "replay PATH...",
		Short: "Run the detection rules over recorded runs",
		Long: `Run the detection rules, the same code that watches live runs, over traces: JSON
lines, plain or gzipped, one row a step or one event as the product has it. A directory stands for its .jsonl and
.jsonl.gz files. Lines that cannot be read are named and passed over.`,
		Example: `  agentctl detect replay run.jsonl
  agentctl detect replay --format jsonl traces/ > found.jsonl
  agentctl detect replay --rules stricter.yaml traces/`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if as != "table" && as != "jsonl" {
				return fault.New(fault.Invalid, "--format is %q; want table or jsonl", as)
			}
			s := rules.Defaults()
			if settings != "" {
				if err := conf.Load(settings, &s); err != nil {
					return err
				}
			}
			files, err := replay.Files(args...)
			if err != nil {
				return err
			}
			return a.replay(files, rules.All(s), rules.Nodes(s.Nodes), as)
		},
	}
	cmd.Flags().StringVar(&as, "format", "table", "table, or jsonl for programs")
	cmd.Flags().StringVar(&settings, "rules", "", "`file` with the rules' settings (YAML); what it leaves out is as by default")
	complete(cmd, "format", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{"table", "jsonl"}, cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}

// replay runs the rules over every file, also after one could not be read to
// its end.
func (a *app) replay(files []string, list []detect.Rule, nodes []detect.NodeRule, as string) error {
	var problems []error
	for _, path := range files {
		result, err := replay.File(path, list, nodes...)
		if err != nil {
			problems = append(problems, err)
		}
		if result.Rows == 0 && err == nil {
			problems = append(problems, fault.New(fault.Invalid, "read trace %s: it has no row that can be read", path))
		}
		for _, damage := range result.Damage {
			a.note("%s:%d: this line cannot be read: %s", path, damage.Line, damage.Why)
		}
		if result.Damaged > 0 {
			a.note("%s: passed over %s that cannot be read", path, count(result.Damaged, "line"))
		}
		if as == "jsonl" {
			err = a.detectionLine(result)
		} else {
			err = a.detectionTable(result)
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(problems...)
}

// detection is a finding as score.py reads it; docs/formats/trace.md.
type detection struct {
	Kind     string             `json:"kind"`
	Severity string             `json:"severity"`
	Step     int64              `json:"step"`
	Row      int                `json:"row"`
	Time     float64            `json:"t"`
	Rank     *uint32            `json:"rank,omitempty"`
	Node     string             `json:"node,omitempty"`
	Onset    int64              `json:"onset_step"`
	Summary  string             `json:"summary"`
	Evidence map[string]float64 `json:"evidence,omitempty"`
}

func (a *app) detectionLine(result replay.Result) error {
	out := struct {
		Trace      string      `json:"trace"`
		Detections []detection `json:"detections"`
	}{result.Trace, []detection{}}
	for _, d := range result.Detections {
		f := d.Finding
		line := detection{
			Kind: kindOutside(f.Kind), Severity: word(f.Severity), Step: f.Step, Row: d.Row, Time: d.Time,
			Node: f.Node, Onset: f.OnsetStep, Summary: f.Summary, Evidence: f.Evidence,
		}
		if result.Ranked {
			line.Rank = &f.Rank
		}
		out.Detections = append(out.Detections, line)
	}
	text, err := json.Marshal(out)
	if err != nil {
		return fmt.Errorf("write detections of %s: %w", result.Trace, err)
	}
	_, err = a.stdout.Write(append(text, '\n'))
	return fault.Mark(fault.Unavailable, err)
}

// kindOutside is a kind's name in the format of traces, where a non-finite
// value is called nan.
func kindOutside(kind string) string {
	if kind == "nonfinite" {
		return "nan"
	}
	return kind
}

func (a *app) detectionTable(result replay.Result) error {
	p := newPage(a.width, a.color(), false)
	p.line(cell{result.Trace, strong}, cell{text: count(result.Rows, "row") + ", " + count(len(result.Detections), "finding")})
	var rows [][]cell
	for _, d := range result.Detections {
		f := d.Finding
		style := warn
		if f.Severity == commonv1.Severity_SEVERITY_CRITICAL {
			style = bad
		}
		rows = append(rows, []cell{
			{text: f.Kind}, {text: word(f.Severity), style: style}, {text: fmt.Sprint(f.Step)}, {text: fmt.Sprint(d.Row)}, {text: f.Summary},
		})
	}
	if rows != nil {
		p.table(2, []column{
			{head: "KIND"}, {head: "SEVERITY"}, {head: "STEP", right: true}, {head: "ROW", right: true}, {head: "FINDING"},
		}, rows)
	}
	_, err := a.stdout.Write(p.bytes())
	return fault.Mark(fault.Unavailable, err)
}
