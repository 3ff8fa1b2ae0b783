package scan

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// Exit codes of a scan. A warning is no reason to refuse a job, so it is none
// to fail a prolog, unless strict.
const (
	ExitOk   = 0
	ExitWarn = 1 // only when strict: something warns or is unknown
	ExitFail = 2
)

// ExitCode gives the exit code for a report.
func (r Report) ExitCode(strict bool) int {
	switch {
	case r.Status == Fail:
		return ExitFail
	case strict && r.Status.rank() >= Unknown.rank():
		return ExitWarn
	}
	return ExitOk
}

// JSON writes the report as one indented document.
func (r Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(r)
}

// Table writes the report for people.
func (r Report) Table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "CHECK\tSTATUS\tWHAT\tADVICE")
	for _, c := range r.Checks {
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", c.Name, c.Status, c.What, c.Advice)
	}
	_, _ = fmt.Fprintf(t, "\nnode %s: %s\n", r.Node, r.Status)
	return t.Flush()
}
