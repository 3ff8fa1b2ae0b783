package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/protocol"
)

// bindNode settles the node's name and ties it to the state directory. The
// frames in the spool carry it, and the control plane takes from a node only
// what is its own: under another name they could never be delivered. So a name
// that nobody chose stays what it was even when the host is renamed, and a
// chosen one that differs is an error.
func (c *Config) bindNode() error {
	path := filepath.Join(c.StateDir, "node")
	data, err := os.ReadFile(path)
	bound := strings.TrimSpace(string(data))
	switch {
	case err == nil && c.Node == "":
		c.Node = bound
		return nil
	case err == nil && c.Node == bound:
		return nil
	case err == nil:
		return fault.WithHint(
			fault.New(fault.Precondition, "state directory %s belongs to node %q, and node is %q", c.StateDir, bound, c.Node),
			"set node to the old name, or give the new node a state_dir of its own")
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("read the node's name: %w", err)
	}
	if c.Node == "" {
		c.Node = hostName()
	}
	return durable.WriteFile(durable.OS{}, path, []byte(c.Node+"\n"), 0o600)
}

// hostName is the host's name where it is fit to be a node's.
func hostName() string {
	name, err := os.Hostname()
	if err != nil || protocol.CheckNode(name) != nil {
		return "localhost"
	}
	return name
}
