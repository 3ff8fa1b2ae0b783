package route

import "fmt"

// Step is one node that an alert met on its way.
type Step struct {
	Route   *Route
	Depth   int
	Matched bool
	Chosen  bool // it has the alert
	Why     string
}

// Explain gives every node that an alert with some labels meets, in order, and
// why it goes on or not.
func (t *Tree) Explain(labels map[string]string) []Step {
	var steps []Step
	t.root.explain(labels, 0, &steps)
	return steps
}

// explain adds the node and those below it, and tells whether any had it.
func (r *Route) explain(labels map[string]string, depth int, steps *[]Step) bool {
	at := len(*steps)
	*steps = append(*steps, Step{Route: r, Depth: depth})
	for _, m := range r.Matchers {
		if !m.Matches(labels[m.Name]) {
			(*steps)[at].Why = fmt.Sprintf("%s does not match: %s is %q", m, m.Name, labels[m.Name])
			return false
		}
	}
	(*steps)[at].Matched = true
	taken := false
	for i, child := range r.children {
		if !child.explain(labels, depth+1, steps) {
			continue
		}
		taken = true
		if left := len(r.children) - i - 1; !child.goesOn && left > 0 {
			(*steps)[at].Why = fmt.Sprintf("matches; a route below has it, and %d behind that are not looked at, since it has no continue", left)
		}
		if !child.goesOn {
			break
		}
	}
	switch {
	case !taken:
		(*steps)[at].Chosen = true
		(*steps)[at].Why = "matches, and no route below does"
		if depth == 0 && len(r.Receivers) == 0 {
			(*steps)[at].Why = "matches, and no route below does; it names no receiver: nobody is told"
		}
	case (*steps)[at].Why == "":
		(*steps)[at].Why = "matches; routes below have it"
	}
	return true
}
