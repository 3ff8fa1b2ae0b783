package supervise

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/trainer/supervise/policy"
)

const (
	// drainer is the only program that is run to exclude a node.
	drainer = "scontrol"
	// drainTime bounds it.
	drainTime = 20 * time.Second
	// nodeVariable is where SLURM names the node.
	nodeVariable = "SLURMD_NODENAME"
)

// exclude has the scheduler give this node to nobody, where the run is given up
// here, its policy asks for another node, and the configuration allows it. What
// became of it is added to the decision.
func (s *supervisor) exclude(ctx context.Context, d *policy.Decision) {
	if !d.ExcludeNode || d.Restart || !s.config.DrainNode {
		return
	}
	node, err := s.drain(ctx, policy.Name(d.Failure))
	if err != nil {
		s.deps.Log.Error("the node is not excluded", "cause", err)
		d.Why += fmt.Sprintf("; the node could not be drained: %v", err)
		return
	}
	s.deps.Log.Warn("the node is drained: SLURM gives it to nobody", "node", node)
	d.Why += "; node " + node + " is drained"
}

// drain runs scontrol update NodeName=... State=DRAIN with arguments that can be
// nothing else.
func (s *supervisor) drain(ctx context.Context, failure string) (node string, err error) {
	node = lookUp(s.deps.Environ, nodeVariable)
	if !regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`).MatchString(node) {
		return "", fault.New(fault.Precondition, "drain node: %s is %.64q, which is no name of one", nodeVariable, node)
	}
	path, err := exec.LookPath(drainer)
	if err != nil {
		return "", fault.Mark(fault.Precondition, fmt.Errorf("drain node: %w", err))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "update", "NodeName="+node, "State=DRAIN", "Reason=vigil: "+plain(failure)+" of run "+plain(s.config.RunID))
	cmd.Env = s.deps.Environ
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("drain node: %s: %w: %.200s", drainer, err, strings.TrimSpace(string(text)))
	}
	return node, nil
}

// plain leaves of a text what cannot mean anything to anybody.
func plain(text string) string {
	text = regexp.MustCompile(`[^A-Za-z0-9_.-]`).ReplaceAllString(text, "_")
	return text[:min(len(text), 64)]
}

// lookUp gives a variable of an environment; the last one counts, as for exec.
func lookUp(environ []string, name string) string {
	for _, entry := range slices.Backward(environ) {
		if value, found := strings.CutPrefix(entry, name+"="); found {
			return value
		}
	}
	return ""
}
