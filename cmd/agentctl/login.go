package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/pki"
	"github.com/vigil-ml/vigil/internal/serve"
)

const (
	signInPath     = "/.well-known/vigil"
	maxSignInBytes = 64 << 10
	// loginTime is how long a person may take to sign in.
	loginTime = 10 * time.Minute
)

func loginCommand(a *app) *cobra.Command {
	var pin string
	var browser bool
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Sign in, or pin the authority of a control plane on another machine",
		Long: `Signs in where the control plane has people sign in: on this screen you get an
address and a code, for a browser anywhere; with --browser the browser of this
machine comes back here by itself. What comes of it is kept in a file that only
you can read, and renewed while the provider lets it be.

With --pin the authority by which the control plane is known is kept too;
agentctl access pin on the control plane's machine, or its log, has the pin.`,
		Example: `  agentctl login --server control-1:8080 --pin 3f6c...
  agentctl login --server control-1:8080 --browser`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), loginTime)
			defer cancel()
			if pin != "" {
				if err := a.pin(ctx, pin); err != nil {
					return fmt.Errorf("login: %w", err)
				}
			}
			to, err := a.destination()
			if err != nil {
				return err
			}
			where, err := askSignIn(ctx, to)
			if fault.Is(err, fault.NotFound) && pin != "" {
				a.note("People do not sign in at this control plane; its authority is pinned. Come in with a token.")
				return nil
			}
			if err != nil {
				return fmt.Errorf("login: %w", err)
			}
			kept, err := a.login(to.address)
			if err != nil {
				return err
			}
			got, err := a.signIn(ctx, where, browser)
			if err != nil {
				return fmt.Errorf("login: %w", err)
			}
			got.Authority = kept.Authority
			if err := keepLogin(to.address, got); err != nil {
				return err
			}
			a.note("Signed in at %s until %s.", got.Issuer, got.Expires.Local().Format(time.DateTime))
			return nil
		},
	}
	cmd.Flags().StringVar(&pin, "pin", "", "the `pin` of the control plane's authority, to know it by from now on")
	cmd.Flags().BoolVar(&browser, "browser", false, "sign in with the browser of this machine")
	return cmd
}

func logoutCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "logout",
		Short: "Forget the sign-in at a control plane; its authority stays known",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			to, err := a.destination()
			if err != nil {
				return err
			}
			kept, err := a.login(to.address)
			if err != nil {
				return err
			}
			return keepLogin(to.address, login{Authority: kept.Authority})
		},
	}
}

// pin learns the authority that has a pin, from the control plane itself.
func (a *app) pin(ctx context.Context, pin string) error {
	to, err := a.destination()
	if err != nil {
		return err
	}
	var authority *x509.Certificate
	config := pki.ToPinned(pin, func(cert *x509.Certificate) { authority = cert })
	config.NextProtos = serve.Protocols()
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", to.address)
	if err != nil {
		return fault.Mark(cmp.Or(fault.KindOf(err), fault.Unavailable), fmt.Errorf("look at %s: %w", to.address, err))
	}
	if err := conn.Close(); err != nil {
		return fmt.Errorf("look at %s: %w", to.address, err)
	}
	kept, err := a.login(to.address)
	if err != nil {
		return err
	}
	kept.Authority = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Raw}))
	return keepLogin(to.address, kept)
}

// provider is where people sign in.
type provider struct {
	Issuer   string   `json:"issuer"`
	ClientID string   `json:"client_id"`
	Scopes   []string `json:"scopes"`
}

// askSignIn asks the control plane where people sign in; [fault.NotFound] where
// they do not.
func askSignIn(ctx context.Context, to destination) (provider, error) {
	var where provider
	scheme, transport := "http", &http.Transport{DisableKeepAlives: true}
	if to.tls != nil {
		scheme, transport.TLSClientConfig = "https", to.tls.Clone()
		transport.TLSClientConfig.NextProtos = []string{"http/1.1"}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+to.address+signInPath, nil)
	if err != nil {
		return where, fault.New(fault.Invalid, "address %s: %w", to.address, err)
	}
	response, err := (&http.Client{Transport: transport, Timeout: defaultTimeout}).Do(request)
	if err != nil {
		return where, fault.WithHint(fault.Mark(fault.Unavailable, fmt.Errorf("ask where to sign in: %w", err)),
			"is the address that of the operators' port? agentctl login --pin makes its authority known")
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return where, fault.WithHint(fault.New(fault.NotFound, "people do not sign in at %s (%s)", to.address, response.Status),
			"access.oidc in the control plane's configuration has them; else come in with a token")
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxSignInBytes)).Decode(&where); err != nil {
		return where, fault.New(fault.Corrupt, "read where to sign in: %w", err)
	}
	if u, err := url.Parse(where.Issuer); err != nil || (u.Scheme != "https" && serve.Loopback(u.Host) != "") {
		return where, fault.New(fault.Invalid, "people sign in at %q; want https", where.Issuer)
	}
	return where, nil
}
