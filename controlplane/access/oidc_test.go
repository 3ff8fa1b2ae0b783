package access_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/controlplane/access"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/testkit"
	"github.com/vigil-ml/vigil/internal/testkit/idp"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

var someone = map[string]any{"sub": "sub-1", "preferred_username": "ada", "email": "ada@example.org", "email_verified": true}

func signIn(t *testing.T, p *idp.Provider, grants ...access.Grant) *access.OIDC {
	t.Helper()
	o, err := access.NewOIDC(access.OIDCConfig{
		Issuer: p.Issuer(), ClientID: "vigil", Audiences: []string{"vigil-api"}, Grants: grants,
	}, time.Now, func(text string) string { return "pseudonym of " + text[len(text)-5:] })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return o
}

func bring(o *access.OIDC, token string) (*access.Identity, error) {
	return o.Authenticate(context.Background(), access.Credential{Bearer: token, Source: netip.MustParseAddr("192.0.2.7")})
}

// unsigned is a token that says that it needs no signature.
func unsigned(claims map[string]any) string {
	text, _ := json.Marshal(claims)
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString(text) + "."
}

// TestTokensOfAProvider: whose token is taken and whose is not.
func TestTokensOfAProvider(t *testing.T) {
	p, other := idp.Start(t, someone), idp.Start(t, someone)
	o := signIn(t, p)
	now := time.Now()
	good := p.Token("vigil", nil)
	parts := strings.Split(good, ".")
	swapped := strings.Split(p.Token("vigil", map[string]any{"sub": "root"}), ".")
	foreign := idp.NewKey(t)
	named := foreign
	named.KeyID = p.Key().KeyID
	claims := map[string]any{"iss": p.Issuer(), "aud": "vigil", "sub": "sub-1", "exp": now.Add(time.Hour).Unix()}
	key := p.Key()
	public := key.Public()
	publicText, err := public.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		token string
		want  fault.Kind // Internal: it is taken
	}{
		"good":                    {good, fault.Internal},
		"an access token":         {p.Token("vigil-api", nil), fault.Internal},
		"for several, us too":     {p.Token("", map[string]any{"aud": []string{"x", "vigil"}, "azp": "vigil"}), fault.Internal},
		"given to another":        {p.Token("", map[string]any{"aud": []string{"x", "vigil"}, "azp": "x"}), fault.Unauthenticated},
		"expired":                 {p.Token("vigil", map[string]any{"exp": now.Add(-time.Second).Unix()}), fault.Unauthenticated},
		"never ends":              {p.Token("vigil", map[string]any{"exp": nil}), fault.Unauthenticated},
		"not yet good":            {p.Token("vigil", map[string]any{"nbf": now.Add(time.Hour).Unix()}), fault.Unauthenticated},
		"another audience":        {p.Token("grafana", nil), fault.Unauthenticated},
		"no audience":             {p.Token("", map[string]any{"aud": nil}), fault.Unauthenticated},
		"of nobody":               {p.Token("vigil", map[string]any{"sub": ""}), fault.Unauthenticated},
		"another provider":        {other.Token("vigil", nil), fault.Unauthenticated},
		"says our issuer":         {other.Token("vigil", map[string]any{"iss": p.Issuer()}), fault.Unauthenticated},
		"a foreign key":           {idp.Sign(t, foreign, claims), fault.Unauthenticated},
		"a foreign key, our name": {idp.Sign(t, named, claims), fault.Unauthenticated},
		"no signature":            {unsigned(claims), fault.Unauthenticated},
		"the public key as a secret": {idp.Sign(t, jose.JSONWebKey{Key: publicText, KeyID: public.KeyID, Algorithm: string(jose.HS256)}, claims),
			fault.Unauthenticated},
		"another's claims":     {parts[0] + "." + swapped[1] + "." + parts[2], fault.Unauthenticated},
		"cut off":              {good[:len(good)-4], fault.Unauthenticated},
		"issuer with a slash":  {p.Token("vigil", map[string]any{"iss": p.Issuer() + "/"}), fault.Unauthenticated},
		"claims that are none": {parts[0] + ".e30." + parts[2], fault.Unauthenticated},
	} {
		i, err := bring(o, tc.token)
		if tc.want == fault.Internal && (err != nil || i == nil || i.Name != "ada") {
			t.Errorf("%s: %+v, %v; want that it is taken", name, i, err)
		}
		if tc.want != fault.Internal && (!fault.Is(err, tc.want) || i != nil) {
			t.Errorf("%s: %+v, %v; want %s", name, i, err, tc.want)
		}
	}
	// What is no JWT is another's to judge.
	for _, token := range []string{"vgl_a_b", "", "a.b.c", "ey.b", "eyJ.!.c", "ey" + strings.Repeat("x", 20000) + ".e30.x"} {
		if i, err := bring(o, token); i != nil || err != nil {
			t.Errorf("%.20q: %v, %v", token, i, err)
		}
	}
}

func TestProviderRotatesItsKeys(t *testing.T) {
	p := idp.Start(t, someone)
	o := signIn(t, p)
	old := p.Token("vigil", nil)
	if _, err := bring(o, old); err != nil {
		t.Fatal(err)
	}
	before := p.Asked("/keys")
	p.Rotate()
	for range 3 {
		for _, token := range []string{p.Token("vigil", nil), old} {
			if _, err := bring(o, token); err != nil {
				t.Fatalf("after the rotation: %v", err)
			}
		}
	}
	if asked := p.Asked("/keys") - before; asked != 1 {
		t.Errorf("the keys were fetched %d times for one rotation", asked)
	}
}

// TestProviderIsAway: nobody signs in, which is the provider's fault and not the
// caller's, and it is not asked with every call.
func TestProviderIsAway(t *testing.T) {
	p := idp.Start(t, someone)
	token := p.Token("vigil", nil)
	known := signIn(t, p)
	if _, err := bring(known, token); err != nil {
		t.Fatal(err)
	}
	p.Rotate()
	fresh := p.Token("vigil", nil)
	p.Stop()
	if _, err := bring(known, token); err != nil {
		t.Errorf("with keys that are known: %v", err)
	}
	if _, err := bring(known, fresh); !fault.Is(err, fault.Unavailable) {
		t.Errorf("with a key that is not: %v", err)
	}
	if _, err := bring(signIn(t, p), token); !fault.Is(err, fault.Unavailable) {
		t.Errorf("before the provider was ever there: %v", err)
	}
}

// TestProviderThatHangs: one call asks it, the others wait for that one's answer
// no longer than they may, and all come in when it answers.
func TestProviderThatHangs(t *testing.T) {
	p := idp.Start(t, someone)
	var asked atomic.Int64
	answers := make(chan struct{})
	hangs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		<-answers
		http.Error(w, "nothing", http.StatusNotFound)
	}))
	defer hangs.Close()
	answer := sync.OnceFunc(func() { close(answers) })
	defer answer()
	o, err := access.NewOIDC(access.OIDCConfig{Issuer: hangs.URL, ClientID: "vigil"}, time.Now, strings.ToUpper)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	token := p.Token("vigil", map[string]any{"iss": hangs.URL})
	first := make(chan error, 1)
	group := life.NewGroup(t.Context())
	group.Go("first", func(context.Context) error {
		_, err := bring(o, token)
		first <- err
		return nil
	})
	testkit.Eventually(t, "the provider to be asked", func() bool { return asked.Load() == 1 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := o.Authenticate(ctx, access.Credential{Bearer: token}); !errors.Is(err, context.Canceled) || !fault.Is(err, fault.Unavailable) {
		t.Errorf("who may not wait: %v", err)
	}
	answer()
	if err := <-first; !fault.Is(err, fault.Unavailable) {
		t.Errorf("who asked: %v", err)
	}
	if _, err := bring(o, token); !fault.Is(err, fault.Unavailable) || asked.Load() != 1 {
		t.Errorf("a moment later: %v; the provider was asked %d times", err, asked.Load())
	}
	group.Stop()
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

// TestGrants: the first grant that fits counts, and no other.
func TestGrants(t *testing.T) {
	grants := []access.Grant{
		{Claim: "groups", Value: "suspended", Roles: []string{"viewer"}, Projects: []string{"none"}},
		{Claim: "groups", Value: "admins", Roles: []string{"admin", "auditor"}},
		{Claim: "realm_access.roles", Value: "ml", Roles: []string{"engineer"}, Projects: []string{"llm", "vision"}},
		{Claim: "email", Value: "ada@example.org", Roles: []string{"operator"}},
		{Claim: "https://example.org/role", Value: "look", Roles: []string{"viewer"}},
	}
	const viewer, operator, engineer, admin, auditor = commonv1.Role_ROLE_VIEWER, commonv1.Role_ROLE_OPERATOR,
		commonv1.Role_ROLE_ENGINEER, commonv1.Role_ROLE_ADMIN, commonv1.Role_ROLE_AUDITOR
	p := idp.Start(t, map[string]any{"sub": "sub-1"})
	o := signIn(t, p, grants...)
	for name, tc := range map[string]struct {
		claims   map[string]any
		roles    []commonv1.Role
		projects []string
	}{
		"none":             {nil, nil, nil},
		"admin":            {map[string]any{"groups": []string{"x", "admins"}}, []commonv1.Role{admin, auditor}, nil},
		"the first counts": {map[string]any{"groups": []string{"admins", "suspended"}}, []commonv1.Role{viewer}, []string{"none"}},
		"inside":           {map[string]any{"realm_access": map[string]any{"roles": []string{"ml"}}}, []commonv1.Role{engineer}, []string{"llm", "vision"}},
		"verified":         {map[string]any{"email": "ada@example.org", "email_verified": true}, []commonv1.Role{operator}, nil},
		"not verified":     {map[string]any{"email": "ada@example.org"}, nil, nil},
		"verified as text": {map[string]any{"email": "ada@example.org", "email_verified": "true"}, nil, nil},
		"dots in the name": {map[string]any{"https://example.org/role": "look"}, []commonv1.Role{viewer}, nil},
		"part of a value":  {map[string]any{"groups": "admins,x"}, nil, nil},
		"other types":      {map[string]any{"groups": map[string]any{"admins": true}, "email": 7}, nil, nil},
	} {
		i, err := bring(o, p.Token("vigil", tc.claims))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff([]any{tc.roles, tc.projects}, []any{i.Roles, i.Projects}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if i.Kind != "user" || i.ID != "u-pseudonym of sub-1" || i.Auth != "oidc" || i.Expires.IsZero() {
			t.Errorf("%s: %+v", name, i)
		}
	}
}

func TestSignInSettings(t *testing.T) {
	for text, want := range map[string]string{
		"oidc: {issuer: 'https://id.example.org', client_id: v}":                                                    "",
		"oidc: {issuer: 'http://127.0.0.1:5556', client_id: v}":                                                     "",
		"oidc: {issuer: 'http://id.example.org', client_id: v}":                                                     "oidc.issuer",
		"oidc: {issuer: 'id.example.org', client_id: v}":                                                            "oidc.issuer",
		"oidc: {issuer: 'https://id.example.org'}":                                                                  "oidc.client_id",
		"oidc: {client_id: v}":                                                                                      "oidc.issuer",
		"oidc: {issuer: 'https://i', client_id: v, grants: [{claim: g, value: v, roles: [root]}]}":                  "oidc.grants[0].roles",
		"oidc: {issuer: 'https://i', client_id: v, grants: [{claim: g, value: v, roles: [anyone]}]}":                "oidc.grants[0].roles",
		"oidc: {issuer: 'https://i', client_id: v, grants: [{claim: g, value: v}]}":                                 "oidc.grants[0].roles",
		"oidc: {issuer: 'https://i', client_id: v, grants: [{claim: g, roles: [admin]}]}":                           "oidc.grants[0].claim",
		"oidc: {issuer: 'https://i', client_id: v, grants: [{claim: g, value: v, roles: [admin], projects: ['']}]}": "oidc.grants[0].projects",
	} {
		c := access.Defaults()
		err := conf.Decode("f", []byte(text), &c)
		if (err == nil) != (want == "") || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v; want %q", text, err, want)
		}
	}
	bad := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(bad, []byte("none"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := access.NewOIDC(access.OIDCConfig{CAFile: bad}, time.Now, nil); !fault.Is(err, fault.Invalid) {
		t.Errorf("an authority that is none: %v", err)
	}
}

func TestClientsLearnWherePeopleSignIn(t *testing.T) {
	p := idp.Start(t, someone)
	answer := httptest.NewRecorder()
	signIn(t, p).ServeHTTP(answer, nil)
	var got map[string]any
	if err := json.Unmarshal(answer.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"issuer": p.Issuer(), "client_id": "vigil", "scopes": []any{"openid", "profile", "email", "offline_access"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
