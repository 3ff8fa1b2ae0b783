// Package localkey hands secrets from a server to callers of the same user on
// the same machine: the server leaves each in a file that only its user can
// read, and a caller finds it by the port that it calls. So what listens on
// loopback can ask everyone who they are, and nobody has to type anything.
package localkey

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/statedir"
)

// Kind is what a secret is for.
type Kind string

// The kinds.
const (
	Operator Kind = "token" // comes in as the local administrator
	Join     Kind = "join"  // joins as the agent of this machine
	// Authority is no secret: the certificate by which a server that speaks TLS is known.
	Authority Kind = "ca"
)

// Dir is where secrets of this user lie.
func Dir() string { return statedir.Default("local") }

// name is the file of a port; the host does not matter, as it is this machine.
func name(address string, kind Kind) (string, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil || port == "" || strings.ContainsAny(port, "/.") {
		return "", fault.New(fault.Invalid, "address %q is not host:port", address)
	}
	return port + "." + string(kind), nil
}

// Leave leaves a secret for those who call an address. Take takes it back.
func Leave(dir, address string, kind Kind, secret string) (take func() error, err error) {
	file, err := name(address, kind)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of local secrets: %w", err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm()&0o022 != 0 {
		return nil, fault.WithHint(fault.New(fault.Denied, "directory %s of local secrets can be written to by others", dir), "chmod 700 "+dir)
	}
	path := filepath.Join(dir, file)
	if err := durable.WriteFile(durable.OS{}, path, []byte(secret+"\n"), 0o600); err != nil {
		return nil, err
	}
	return func() error {
		// Another server may have the port, and the file, by now.
		if data, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(data)) != secret {
			return nil
		}
		return os.Remove(path)
	}, nil
}

// Drop removes what a server that had an address before left for its callers.
func Drop(dir, address string, kind Kind) error {
	file, err := name(address, kind)
	if err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove local secret: %w", err)
	}
	return nil
}

// Find finds the secret for an address on this machine; "" where there is none.
// A file that others could have written is not trusted: [fault.Denied].
func Find(address string, kind Kind) (string, error) {
	host, _, err := net.SplitHostPort(address)
	if ip, ipErr := netip.ParseAddr(host); err != nil || (host != "localhost" && (ipErr != nil || !ip.IsLoopback())) {
		return "", nil
	}
	file, err := name(address, kind)
	if err != nil {
		return "", nil
	}
	for _, dir := range []string{Dir(), "/var/lib/vigil/local"} {
		path := filepath.Join(dir, file)
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("find local secret: %w", err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			return "", fault.New(fault.Denied, "local secret %s can be read by others (mode %04o)", path, info.Mode().Perm())
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrPermission) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("read local secret: %w", err)
		}
		return strings.TrimSpace(string(data)), nil
	}
	return "", nil
}
