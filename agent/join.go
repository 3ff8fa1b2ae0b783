package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/vigil-ml/vigil/agent/enroll"
	"github.com/vigil-ml/vigil/agent/uplink"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/pki"
	"github.com/vigil-ml/vigil/internal/telemetry"
)

// Files of the state directory.
const (
	identityFile = "identity.pem"
	joinedFile   = "control-plane" // the address that the node joined
)

// enrollment says where this node's identity lies. An address that the
// configuration leaves as it is follows what the node joins.
func (c Config) enrollment() enroll.Config {
	e := enroll.Config{Path: filepath.Join(c.StateDir, identityFile), Node: c.Node, Address: c.Uplink.Address}
	joined := filepath.Join(c.StateDir, joinedFile)
	text, err := os.ReadFile(joined)
	if c.Uplink.Address == uplink.Defaults().Address || (err == nil && strings.TrimSpace(string(text)) == c.Uplink.Address) {
		e.Joined = joined
	}
	return e
}

// bindAddress takes the address that the node joined, where the configuration
// has left it as it is without one.
func (c *Config) bindAddress() error {
	if c.Uplink.Address != uplink.Defaults().Address {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(c.StateDir, joinedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the control plane's address: %w", err)
	}
	c.Uplink.Address = strings.TrimSpace(string(text))
	return nil
}

// Join has the node join a control plane, and remembers its address. It ends
// when that is done; logs go to w.
func Join(ctx context.Context, config Config, token, address string, w io.Writer) (node string, err error) {
	parsed, err := pki.ParseJoinToken(token)
	if err != nil {
		return "", err
	}
	if err := config.settle(); err != nil {
		return "", err
	}
	config.Uplink.Address = address
	identity, err := enroll.Open(config.enrollment(), telemetry.Logger(w, config.Log))
	if err != nil {
		return "", err
	}
	if err := identity.Join(ctx, parsed); err != nil {
		return "", err
	}
	return config.Node, durable.WriteFile(durable.OS{}, filepath.Join(config.StateDir, joinedFile), []byte(address+"\n"), 0o600)
}
