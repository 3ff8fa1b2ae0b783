package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/site"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// stage is a site with a receiver, ready for the story.
type stage struct {
	*site.Site
	receiver *receiver
	node     *controlv1.Node
}

// openStage starts the control plane and the agent and waits until they know
// each other. They are foundations: the training that uses them is stopped, and
// saved, before them.
func openStage(ctx context.Context, out string, foundations *life.Group) (*stage, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	s := &stage{}
	if s.receiver, err = openReceiver(foundations); err != nil {
		return nil, err
	}
	if s.Site, err = site.PlanUsual(filepath.Join(out, "demo"), filepath.Dir(self)); err != nil {
		return nil, err
	}
	foundations.Go("site", life.AtEnd(s.Close))
	receivers := fmt.Sprintf(`alerting:
  receivers:
    - name: slack
      slack: {url: "http://%s/slack"}
    - name: webhook
      webhook: {url: "http://%s/webhook"}
`, s.receiver.addr, s.receiver.addr)
	controlPlane, err := s.ControlPlane(ctx, receivers)
	if err != nil {
		return nil, err
	}
	foundations.Go("control plane", watch(controlPlane))
	agent, err := s.Agent(ctx, "")
	if err != nil {
		return nil, err
	}
	foundations.Go("agent", watch(agent))
	s.node, err = s.AwaitNode(ctx)
	return s, err
}

// watch keeps a process until ctx ends, and calls its end before that a
// failure.
func watch(p *site.Process) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return p.Stop()
		case <-p.Done():
			return fault.New(fault.Unavailable, "%s ended by itself; see %s", filepath.Base(p.Name), p.Log)
		}
	}
}

func collectors(n *controlv1.Node) string {
	var list []string
	for name, status := range n.GetCollectors() {
		list = append(list, name+" "+status)
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}
