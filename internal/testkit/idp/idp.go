// Package idp is an OpenID Connect provider for tests: discovery, keys, the
// authorization code flow with PKCE, the device flow, and refresh tokens that are
// good once, as the specifications have them. Whoever asks is approved, unless the
// test says otherwise.
package idp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Provider is a running provider. Its methods are safe for concurrent use.
type Provider struct {
	t      testing.TB
	server *httptest.Server

	mu       sync.Mutex
	keys     []jose.JSONWebKey // the last signs
	claims   map[string]any    // of whoever signs in
	lifetime time.Duration
	pending  int // polls of the device flow before the user has approved
	devices  map[string]bool
	codes    map[string]url.Values // authorization requests by code
	refresh  map[string]bool
	asked    map[string]int // requests by path
	noDevice bool
	refusal  url.Values // what is said in a code's place; nil: nothing
}

// Start starts a provider at which whoever signs in has these claims.
func Start(t testing.TB, claims map[string]any) *Provider {
	t.Helper()
	p := &Provider{
		t: t, claims: claims, lifetime: time.Hour, devices: map[string]bool{}, codes: map[string]url.Values{},
		refresh: map[string]bool{}, asked: map[string]int{},
	}
	p.Rotate()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", p.discovery)
	mux.HandleFunc("GET /keys", p.publicKeys)
	mux.HandleFunc("GET /authorize", p.authorize)
	mux.HandleFunc("POST /device", p.device)
	mux.HandleFunc("POST /token", p.token)
	p.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.asked[r.URL.Path]++
		p.mu.Unlock()
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(p.server.Close)
	return p
}

// Issuer is the provider's URL.
func (p *Provider) Issuer() string { return p.server.URL }

// Stop has the provider be away.
func (p *Provider) Stop() { p.server.Close() }

// Rotate has a new key sign; the ones before stay published.
func (p *Provider) Rotate() {
	key := NewKey(p.t)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = append(p.keys, key)
}

// NewKey makes a key that no provider has published.
func NewKey(t testing.TB) jose.JSONWebKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return jose.JSONWebKey{Key: key, KeyID: rand.Text()[:8], Algorithm: string(jose.ES256), Use: "sig"}
}

// Key is the key that signs now.
func (p *Provider) Key() jose.JSONWebKey {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.keys[len(p.keys)-1]
}

// Lifetime is how long tokens are good from now on.
func (p *Provider) Lifetime(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lifetime = d
}

// Pending has the user take so many polls to approve a device.
func (p *Provider) Pending(polls int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pending = polls
}

// WithoutDevices has the provider know no device flow.
func (p *Provider) WithoutDevices() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.noDevice = true
}

// Asked is how often a path was asked for.
func (p *Provider) Asked(path string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[path]
}

// Token gives a token for a client, as the token endpoint does; change has the
// last word on its claims.
func (p *Provider) Token(audience string, change map[string]any) string {
	return Sign(p.t, p.Key(), p.claimsFor(audience, change))
}

func (p *Provider) claimsFor(audience string, change map[string]any) map[string]any {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	all := map[string]any{"iss": p.Issuer(), "aud": audience, "iat": now.Unix(), "exp": now.Add(p.lifetime).Unix(), "jti": rand.Text()}
	maps.Copy(all, p.claims)
	maps.Copy(all, change)
	return all
}

// Sign signs claims with a key.
func Sign(t testing.TB, key jose.JSONWebKey, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(key.Algorithm), Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func (p *Provider) discovery(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	about := map[string]any{
		"issuer": p.Issuer(), "jwks_uri": p.Issuer() + "/keys", "authorization_endpoint": p.Issuer() + "/authorize",
		"token_endpoint": p.Issuer() + "/token", "device_authorization_endpoint": p.Issuer() + "/device",
		"id_token_signing_alg_values_supported": []string{"ES256"}, "response_types_supported": []string{"code"},
		"subject_types_supported": []string{"public"}, "code_challenge_methods_supported": []string{"S256"},
	}
	if p.noDevice {
		delete(about, "device_authorization_endpoint")
	}
	answer(w, http.StatusOK, about)
}

func (p *Provider) publicKeys(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var set jose.JSONWebKeySet
	for _, key := range p.keys {
		set.Keys = append(set.Keys, key.Public())
	}
	answer(w, http.StatusOK, set)
}

// Refuse has who comes with a browser be sent back with an error from now on; ""
// lets them in again.
func (p *Provider) Refuse(reason, description string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusal = url.Values{"error": {reason}, "error_description": {description}}
	if reason == "" {
		p.refusal = nil
	}
}

// authorize sends whoever asks back with a code at once.
func (p *Provider) authorize(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	back, err := url.Parse(query.Get("redirect_uri"))
	if err != nil || back.Hostname() != "127.0.0.1" || query.Get("response_type") != "code" ||
		query.Get("code_challenge_method") != "S256" || query.Get("code_challenge") == "" {
		http.Error(w, "want a code for a loopback address, with PKCE", http.StatusBadRequest)
		return
	}
	code := rand.Text()
	p.mu.Lock()
	reply := maps.Clone(p.refusal)
	if reply == nil {
		p.codes[code] = query
		reply = url.Values{"code": {code}}
	}
	p.mu.Unlock()
	reply.Set("state", query.Get("state"))
	back.RawQuery = reply.Encode()
	http.Redirect(w, r, back.String(), http.StatusFound)
}

func (p *Provider) device(w http.ResponseWriter, _ *http.Request) {
	code := rand.Text()
	p.mu.Lock()
	p.devices[code] = true
	p.mu.Unlock()
	answer(w, http.StatusOK, map[string]any{
		"device_code": code, "user_code": "WDJB-MJHT", "verification_uri": p.Issuer() + "/activate", "expires_in": 60, "interval": 1,
	})
}

// token answers all three grants.
func (p *Provider) token(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		answer(w, http.StatusBadRequest, map[string]string{"error": "invalid_request"})
		return
	}
	client := r.PostForm.Get("client_id")
	nonce, wrong := p.redeem(r.PostForm)
	if client == "" {
		wrong = "invalid_client"
	}
	if wrong != "" {
		answer(w, http.StatusBadRequest, map[string]string{"error": wrong})
		return
	}
	more := map[string]any{}
	if nonce != "" {
		more["nonce"] = nonce
	}
	next := rand.Text()
	p.mu.Lock()
	p.refresh[next] = true
	lifetime := p.lifetime
	p.mu.Unlock()
	answer(w, http.StatusOK, map[string]any{
		"access_token": "opaque", "token_type": "Bearer", "expires_in": int(lifetime.Seconds()), "refresh_token": next, "id_token": p.Token(client, more),
	})
}

// redeem takes what a grant is made with; it is good once.
func (p *Provider) redeem(form url.Values) (nonce, wrong string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch form.Get("grant_type") {
	case "refresh_token":
		if !p.refresh[form.Get("refresh_token")] {
			return "", "invalid_grant"
		}
		delete(p.refresh, form.Get("refresh_token"))
	case "urn:ietf:params:oauth:grant-type:device_code":
		if !p.devices[form.Get("device_code")] {
			return "", "invalid_grant"
		}
		if p.pending > 0 {
			p.pending--
			return "", "authorization_pending"
		}
		delete(p.devices, form.Get("device_code"))
	case "authorization_code":
		request, ok := p.codes[form.Get("code")]
		sum := sha256.Sum256([]byte(form.Get("code_verifier")))
		if !ok || base64.RawURLEncoding.EncodeToString(sum[:]) != request.Get("code_challenge") || form.Get("redirect_uri") != request.Get("redirect_uri") {
			return "", "invalid_grant"
		}
		delete(p.codes, form.Get("code"))
		return request.Get("nonce"), ""
	default:
		return "", "unsupported_grant_type"
	}
	return "", ""
}
