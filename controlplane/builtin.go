package controlplane

import (
	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/controlplane/detect/rules"
)

// Rules is what is looked for, as agentctl detect replay looks for it too. A
// new rule is one line in rules.All.
func Rules() []detect.Rule { return rules.All(rules.Defaults()) }

// NodeRules is what is looked for on nodes. A new rule is one line in
// rules.Nodes.
func NodeRules() []detect.NodeRule { return rules.Nodes(rules.Defaults().Nodes) }
