package rules

import (
	"maps"
	"slices"
	"strings"

	"github.com/vigil-ml/vigil/controlplane/detect"
)

// Mode is what becomes of a rule's findings.
type Mode string

const (
	// On makes them count.
	On Mode = "on"
	// Off has nobody look.
	Off Mode = "off"
	// Shadow keeps and shows them, and opens no incident.
	Shadow Mode = "shadow"
)

// Modes is by a rule's code.
type Modes map[string]Mode

// Over gives these modes with others laid over them.
func (m Modes) Over(others Modes) Modes {
	if len(others) == 0 {
		return m
	}
	all := maps.Clone(m)
	if all == nil {
		all = Modes{}
	}
	maps.Copy(all, others)
	return all
}

func (m Modes) apply(rules []detect.Rule) []detect.Rule {
	var used []detect.Rule
	for _, rule := range rules {
		if m[rule.Code] == Off {
			continue
		}
		rule.Shadow = m[rule.Code] == Shadow
		used = append(used, rule)
	}
	return used
}

// Codes gives the code of every rule, in their order.
func Codes() []string {
	var codes []string
	for _, rule := range list(Defaults()) {
		codes = append(codes, rule.Code)
	}
	return codes
}

func (m Modes) check(report func(key, format string, args ...any)) {
	codes := Codes()
	for _, code := range slices.Sorted(maps.Keys(m)) {
		switch mode := m[code]; {
		case !slices.Contains(codes, code):
			report("modes."+code, "there is no such rule; known: %s", strings.Join(codes, ", "))
		case mode != On && mode != Off && mode != Shadow:
			report("modes."+code, "is %q; want on, off or shadow", mode)
		}
	}
}
