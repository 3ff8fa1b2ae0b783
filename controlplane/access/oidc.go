package access

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/pki"
)

const (
	providerTime = 10 * time.Second // that a request to the provider may take
	// providerRest is how long a provider that did not answer is left alone.
	providerRest = 5 * time.Second
	maxJWTBytes  = 16 << 10
	maxNameRunes = 100
)

// SignInPath is where clients learn where people sign in.
const SignInPath = "/.well-known/vigil"

// OIDC knows people by the tokens of an OpenID Connect provider. It is an
// [Authenticator], and safe for concurrent use.
type OIDC struct {
	config    OIDCConfig
	clock     func() time.Time
	pseudonym func(text string) string
	client    *http.Client

	mu       sync.Mutex
	verifier *oidc.IDTokenVerifier // nil until the provider has answered
	tried    time.Time
	failed   error
	asking   chan struct{} // closed when the call that asks the provider has its answer; nil while none does
}

// NewOIDC makes one. Pseudonym gives a name for people that only this
// installation can make of who they are. The provider is asked with the first
// token: it may be away now.
func NewOIDC(config OIDCConfig, clock func() time.Time, pseudonym func(text string) string) (*OIDC, error) {
	transport := &http.Transport{
		DialContext:     (&net.Dialer{Timeout: providerTime}).DialContext,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: providerTime, Proxy: http.ProxyFromEnvironment,
		IdleConnTimeout: time.Minute,
	}
	if config.CAFile != "" {
		pool, err := pki.PoolOf(config.CAFile)
		if err != nil {
			return nil, fmt.Errorf("open sign-in: %w", err)
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	return &OIDC{
		config: config, clock: clock, pseudonym: pseudonym, client: &http.Client{Transport: transport, Timeout: providerTime},
	}, nil
}

// Close closes connections to the provider that are not used.
func (o *OIDC) Close() { o.client.CloseIdleConnections() }

// Authenticate knows who brings a token of the provider.
func (o *OIDC) Authenticate(ctx context.Context, c Credential) (*Identity, error) {
	issuer, ok := issuerOf(c.Bearer)
	if !ok {
		return nil, nil
	}
	if issuer != o.config.Issuer {
		return nil, fault.New(fault.Unauthenticated, "the token is of another issuer than people sign in with here")
	}
	verifier, err := o.provider(ctx)
	if err != nil {
		return nil, err
	}
	token, err := verifier.Verify(ctx, c.Bearer)
	if err != nil {
		return nil, refusedToken(err)
	}
	var claims map[string]any
	if err := token.Claims(&claims); err != nil {
		return nil, fault.New(fault.Unauthenticated, "read the token's claims: %w", err)
	}
	if err := o.isForUs(token, claims); err != nil {
		return nil, err
	}
	return o.identity(c.Bearer, token, claims), nil
}

// refusedToken tells a token that is not good from a provider that is away.
func refusedToken(err error) error {
	if expired, ok := errors.AsType[*oidc.TokenExpiredError](err); ok {
		return fault.WithHint(fault.New(fault.Unauthenticated, "the token has expired at %s", expired.Expiry.UTC().Format(time.RFC3339)), "agentctl login")
	}
	// go-oidc gives no type for this; the text before it is its own.
	if strings.Contains(err.Error(), "fetching keys") {
		return fault.New(fault.Unavailable, "the sign-in's provider does not give its keys: %w", err)
	}
	return fault.WithHint(fault.New(fault.Unauthenticated, "the token is not good: %w", err), "agentctl login")
}

// issuerOf gives the issuer that a JWT names, which is not checked yet.
func issuerOf(bearer string) (string, bool) {
	parts := strings.Split(bearer, ".")
	if len(parts) != 3 || !strings.HasPrefix(bearer, "ey") || len(bearer) > maxJWTBytes {
		return "", false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", false
	}
	var claims struct {
		Issuer string `json:"iss"`
	}
	err = json.Unmarshal(payload, &claims)
	return claims.Issuer, err == nil
}

// provider gives what checks tokens; it asks the provider for its settings once
// it can, for one call at a time: the others wait for the answer as long as they
// may. Keys are fetched again when a token is signed by one that is new.
func (o *OIDC) provider(ctx context.Context) (*oidc.IDTokenVerifier, error) {
	for {
		verifier, asking, err := o.known()
		if verifier != nil || err != nil {
			return verifier, err
		}
		if asking == nil {
			return o.ask()
		}
		select {
		case <-asking:
		case <-ctx.Done():
			return nil, fault.New(fault.Unavailable, "wait for the sign-in's provider: %w", ctx.Err())
		}
	}
}

// known gives what checks tokens, or why there is none, or what is closed when
// the call that asks has its answer. When it gives none of these the caller is to
// ask.
func (o *OIDC) known() (verifier *oidc.IDTokenVerifier, asking chan struct{}, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.verifier != nil:
		return o.verifier, nil, nil
	case o.failed != nil && o.clock().Sub(o.tried) < providerRest:
		return nil, nil, o.failed
	case o.asking != nil:
		return nil, o.asking, nil
	}
	o.asking = make(chan struct{})
	return nil, nil, nil
}

func (o *OIDC) ask() (*oidc.IDTokenVerifier, error) {
	// Not the call's context: the provider keeps it for fetching keys.
	p, err := oidc.NewProvider(oidc.ClientContext(context.Background(), o.client), o.config.Issuer)
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.asking)
	o.asking, o.tried, o.failed = nil, o.clock(), nil
	if err != nil {
		o.failed = fault.WithHint(fault.New(fault.Unavailable, "the sign-in's provider does not answer: %w", err), "tokens and the local administrator still come in")
		return nil, o.failed
	}
	// Whom a token is for is checked by isForUs: there may be several.
	o.verifier = p.Verifier(&oidc.Config{SkipClientIDCheck: true, Now: o.clock})
	return o.verifier, nil
}

// isForUs refuses tokens that were made for others.
func (o *OIDC) isForUs(token *oidc.IDToken, claims map[string]any) error {
	ours := append([]string{o.config.ClientID}, o.config.Audiences...)
	if !slices.ContainsFunc(token.Audience, func(a string) bool { return slices.Contains(ours, a) }) {
		return fault.New(fault.Unauthenticated, "the token is for another audience")
	}
	if party, ok := claims["azp"].(string); ok && len(token.Audience) > 1 && !slices.Contains(ours, party) {
		return fault.New(fault.Unauthenticated, "the token was given to another party")
	}
	if token.Subject == "" {
		return fault.New(fault.Unauthenticated, "the token says not whose it is")
	}
	return nil
}

// identity is who the token says it is, with what the first grant that fits gives.
func (o *OIDC) identity(bearer string, token *oidc.IDToken, claims map[string]any) *Identity {
	session := sha256.Sum256([]byte(bearer))
	i := &Identity{
		Kind: KindUser, ID: "u-" + o.pseudonym(token.Issuer+"\x00"+token.Subject), Name: o.nameOf(token, claims), Auth: "oidc",
		Expires: token.Expiry, Session: hex.EncodeToString(session[:]),
	}
	i.Email, _ = claims["email"].(string)
	i.Login, _ = claims["preferred_username"].(string)
	for _, field := range []*string{&i.Email, &i.Login} {
		*field = bounded(*field)
	}
	for _, grant := range o.config.Grants {
		if fits(grant, claims) {
			i.Roles, i.Projects = grant.roles(), grant.Projects
			break
		}
	}
	return i
}

func (o *OIDC) nameOf(token *oidc.IDToken, claims map[string]any) string {
	names := []string{"preferred_username", "name", "email"}
	if o.config.NameClaim != "" {
		names = []string{o.config.NameClaim}
	}
	for _, name := range names {
		if value, ok := claimOf(claims, name).(string); ok && value != "" {
			return bounded(value)
		}
	}
	return token.Subject
}

// bounded cuts what a provider says to what is kept of it.
func bounded(text string) string {
	runes := []rune(strings.ToValidUTF8(text, "?"))
	return string(runes[:min(len(runes), maxNameRunes)])
}

// claimOf finds a claim by its name, or else by its way through objects.
func claimOf(claims map[string]any, name string) any {
	if value, ok := claims[name]; ok {
		return value
	}
	first, rest, ok := strings.Cut(name, ".")
	if inside, is := claims[first].(map[string]any); ok && is {
		return claimOf(inside, rest)
	}
	return nil
}

func fits(grant Grant, claims map[string]any) bool {
	if verified, _ := claims["email_verified"].(bool); grant.Claim == "email" && !verified {
		return false
	}
	switch value := claimOf(claims, grant.Claim).(type) {
	case string:
		return value == grant.Value
	case []any:
		return slices.Contains(value, any(grant.Value))
	}
	return false
}

// ServeHTTP tells clients where people sign in: there is nothing secret in it.
func (o *OIDC) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	scopes := o.config.Scopes
	if len(scopes) == 0 {
		scopes = []string{oidc.ScopeOpenID, "profile", "email", oidc.ScopeOfflineAccess}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"issuer": o.config.Issuer, "client_id": o.config.ClientID, "scopes": scopes})
}
