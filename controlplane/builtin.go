package controlplane

import (
	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/controlplane/detect/rules"
)

// Rules is the list of what is looked for. A new rule is one line here.
func Rules() []detect.Rule {
	return []detect.Rule{
		rules.NonFinite(),
		rules.Divergence(),
	}
}
