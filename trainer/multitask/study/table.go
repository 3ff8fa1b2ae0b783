package study

import (
	"fmt"
	"io"
	"strings"

	"github.com/vigil-ml/vigil/trainer/multitask"
	"github.com/vigil-ml/vigil/trainer/multitask/score"
)

// maxColumns is how many tasks a table tells one by one.
const maxColumns = 4

// Table writes outcomes as a Markdown table: means over seeds, and half the width
// of their 95 % confidence intervals. The first outcome is the baseline.
func Table(w io.Writer, all []Outcome) error {
	header := []string{"method", "sum of normalized losses"}
	tasks := all[0].Runs[0][0].Score.Tasks
	if len(tasks) > maxColumns {
		tasks = nil
	}
	for _, task := range tasks {
		what := "mean absolute error"
		if task.Classes {
			what = "accuracy, %"
		}
		header = append(header, task.Name+" "+what)
	}
	header = append(header, "better than "+all[0].Method.Name+", %")
	rows := [][]string{header, make([]string, len(header))}
	for i := range rows[1] {
		rows[1][i] = "---"
	}
	for k, o := range all {
		row := []string{"`" + o.Method.String() + "`", interval(o.Final(func(run []multitask.Point) float64 { return Normalized(run, len(run)-1) }), "%.4f")}
		for i, task := range tasks {
			factor, format := 1.0, "%.3f"
			if task.Classes {
				factor, format = 100, "%.2f"
			}
			row = append(row, interval(o.Final(func(run []multitask.Point) float64 {
				return factor * run[len(run)-1].Score.Tasks[i].Main().Value
			}), format))
		}
		better := ""
		if k > 0 {
			better = interval(delta(o, all[0]), "%+.2f")
		}
		rows = append(rows, append(row, better))
	}
	for _, row := range rows {
		if _, err := fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | ")); err != nil {
			return fmt.Errorf("write table: %w", err)
		}
	}
	return nil
}

func interval(values []float64, format string) string {
	mean, half := score.Interval(values)
	return fmt.Sprintf(format+" ± %.*f", mean, decimals(format), half)
}

// decimals is how many digits a format such as %.3f gives.
func decimals(format string) int { return int(format[strings.IndexByte(format, '.')+1] - '0') }
