package law

import (
	"path"
	"slices"
	"strings"
)

// allowed names, for each top-level directory, the others that it may import.
func allowed(top string) []string {
	switch top {
	case "cmd", "deploy":
		return []string{"cmd", "deploy", "controlplane", "agent", "alerting", "trainer", "dashboards", "internal", "proto"}
	case "controlplane":
		return []string{"controlplane", "alerting", "internal", "proto"}
	case "agent", "alerting", "trainer":
		return []string{top, "internal", "proto"}
	case "dashboards":
		return []string{"dashboards", "internal"}
	case "internal":
		return []string{"internal", "proto"}
	default:
		return []string{"proto"}
	}
}

func topOf(dir string) string {
	top, _, _ := strings.Cut(dir, "/")
	return top
}

// importsPointDown holds the floors: agent and control plane, for one, meet
// only through proto.
func importsPointDown(p *Package) []Violation {
	var found []Violation
	for _, f := range p.Files {
		for dir, spec := range imports(f) {
			if !slices.Contains(allowed(topOf(p.Dir)), topOf(dir)) {
				found = append(found, p.at(spec, "%s may not import %s", topOf(p.Dir), dir))
			}
		}
	}
	return found
}

// childrenSpareTheirRoot: the root packages are wiring, so what they wire
// cannot know them.
func childrenSpareTheirRoot(p *Package) []Violation {
	var found []Violation
	for _, root := range []string{"agent", "alerting", "controlplane"} {
		if p.Dir == root || !p.under(root) {
			continue
		}
		for _, f := range p.Files {
			if spec, ok := imports(f)[root]; ok {
				found = append(found, p.at(spec, "a child of %s imports it", root))
			}
		}
	}
	return found
}

// contractsStandAlone: an extension point does not know its extensions.
func contractsStandAlone(p *Package) []Violation {
	if !slices.Contains([]string{"collect", "notify", "detect", "export", "track", "schedule", "blob"}, path.Base(p.Dir)) {
		return nil
	}
	var found []Violation
	for _, f := range p.sources() {
		for dir, spec := range imports(f) {
			if strings.HasPrefix(dir, p.Dir+"/") {
				found = append(found, p.at(spec, "the contract %s imports %s", p.Dir, dir))
			}
		}
	}
	return found
}
