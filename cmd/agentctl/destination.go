package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/localkey"
	"github.com/vigil-ml/vigil/internal/pki"
	"github.com/vigil-ml/vigil/internal/serve"
)

// destination is where the control plane is and how it is known.
type destination struct {
	address string
	tls     *tls.Config // nil speaks plainly, on loopback
	login   *login      // what is kept of it; nil when it was not read
}

func (d destination) credentials() credentials.TransportCredentials {
	if d.tls == nil {
		return insecure.NewCredentials()
	}
	return credentials.NewTLS(d.tls)
}

// destination finds out how to speak with the control plane: by the authority that was
// named or pinned, or that its own user's control plane on this machine left,
// else by the system's authorities. Only on loopback it may be without TLS.
func (a *app) destination() (destination, error) {
	address, plain := strings.CutPrefix(a.server, "http://")
	address, secure := strings.CutPrefix(address, "https://")
	address = strings.TrimSuffix(address, "/")
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return destination{}, fault.WithHint(fault.New(fault.Invalid, "--server %s: it is not host:port", a.server), "for instance --server control-1:8080")
	}
	to := destination{address: address}
	here := serve.Loopback(address) == ""
	if plain {
		if !here {
			return destination{}, fault.WithHint(fault.New(fault.Invalid, "--server %s: beyond this machine agentctl speaks TLS only", a.server), "leave out http://")
		}
		return to, nil
	}
	path := a.caFile
	if path == "" {
		path = a.getenv("VIGIL_CA_FILE")
	}
	if path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return destination{}, fmt.Errorf("read authority: %w", err)
		}
		pool, err := pki.Pool(text, path)
		to.tls = pki.ToHost(pool, host)
		return to, err
	}
	kept, err := a.login(address)
	if err != nil {
		return destination{}, err
	}
	to.login = &kept
	known, err := kept.authority(address)
	if err != nil {
		return destination{}, err
	}
	switch {
	case known != "":
		pool, err := pki.Pool([]byte(known), "that was pinned for "+address)
		to.tls = pki.ToControlPlane(pool)
		return to, err
	case secure || !here:
		to.tls = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	}
	return to, nil
}

// authority gives the authority that is known of an address, in PEM: the one that
// was pinned, or that is on this machine; "" where none is.
func (l login) authority(address string) (string, error) {
	if l.Authority != "" {
		return l.Authority, nil
	}
	return localkey.Find(address, localkey.Authority)
}
