package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/statedir"
)

// login is what agentctl keeps of a control plane, in a file that only its user
// can read.
type login struct {
	// Authority is the certificate by which the control plane is known, in PEM.
	Authority string `json:"authority,omitempty"`
	// Issuer and ClientID are whom the user signed in with, and as what.
	Issuer   string `json:"issuer,omitempty"`
	ClientID string `json:"client_id,omitempty"`
	// IDToken says who the user is, until Expires; RefreshToken gets another.
	IDToken      string    `json:"id_token,omitempty"`
	RefreshToken string    `json:"refresh_token,omitempty"`
	Expires      time.Time `json:"expires,omitzero"`
}

// loginPath is the file for a control plane's address.
func loginPath(address string) string {
	name := strings.NewReplacer(":", "_", "/", "_", "[", "", "]", "").Replace(address)
	return filepath.Join(statedir.Default("agentctl"), name+".json")
}

// login reads what is kept of a control plane; nothing where there is nothing.
func (a *app) login(address string) (login, error) {
	var l login
	path := loginPath(address)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return l, fmt.Errorf("read login: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return l, fault.WithHint(fault.New(fault.Denied, "login %s can be read by others (mode %04o)", path, mode), "chmod 600 "+path+"; who could read it may have signed in with it")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return l, fmt.Errorf("read login: %w", err)
	}
	if err := json.Unmarshal(text, &l); err != nil {
		return l, fault.WithHint(fault.New(fault.Corrupt, "read login %s: %w", path, err), "remove the file and sign in again")
	}
	return l, nil
}

// keepLogin writes what is kept of a control plane.
func keepLogin(address string, l login) error {
	path := loginPath(address)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make directory of logins: %w", err)
	}
	text, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return fmt.Errorf("write login: %w", err)
	}
	return durable.WriteFile(durable.OS{}, path, append(text, '\n'), 0o600)
}
