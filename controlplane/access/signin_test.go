package access_test

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/controlplane/access"
	"github.com/vigil-ml/vigil/controlplane/access/accesstest"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/testkit"
	"github.com/vigil-ml/vigil/internal/testkit/idp"
)

// doors opens a store's doors with sign-in at a provider.
func doors(t *testing.T, config access.Config, p *idp.Provider, grants ...access.Grant) (*store.Store, *accesstest.Doors) {
	t.Helper()
	dir := t.TempDir()
	s, err := store.Open(t.Context(), store.Config{Path: filepath.Join(dir, "vigil.db")}, store.Deps{Log: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, accesstest.OpenWith(t, config, s, dir, signIn(t, p, grants...))
}

// get asks a guarded page with a credential.
func get(d *accesstest.Doors, path, secret, from string) int {
	request := httptest.NewRequest(http.MethodGet, path, nil)
	request.RemoteAddr = from + ":1234"
	if secret != "" {
		request.Header.Set("Authorization", "Bearer "+secret)
	}
	answer := httptest.NewRecorder()
	d.Guard.Web(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })).ServeHTTP(answer, request)
	return answer.Code
}

// TestSignInsAreRecorded: once for each token, by a pseudonym, and a refused one
// too.
func TestSignInsAreRecorded(t *testing.T) {
	p := idp.Start(t, someone)
	s, d := doors(t, access.Defaults(), p, access.Grant{Claim: "preferred_username", Value: "ada", Roles: []string{"viewer"}})
	token := p.Token("vigil", nil)
	for range 3 {
		if code := get(d, "/api/v1/query", token, "192.0.2.1"); code != http.StatusOK {
			t.Fatalf("status %d", code)
		}
	}
	if code := get(d, "/api/v1/query", p.Token("vigil", nil), "192.0.2.1"); code != http.StatusOK {
		t.Fatalf("status %d", code)
	}
	if code := get(d, "/api/v1/query", p.Token("grafana", nil), "192.0.2.1"); code != http.StatusUnauthorized {
		t.Errorf("a token for another: status %d", code)
	}
	if code := get(d, "/api/v1/write", token, "192.0.2.1"); code != http.StatusOK && code != http.StatusForbidden {
		t.Errorf("status %d", code)
	}
	var outcomes []string
	err := s.View(t.Context(), func(tx *store.Tx) error {
		found, err := tx.AuditRecords(store.AuditQuery{Limit: 100})
		for _, r := range found {
			outcomes = append(outcomes, r.Class+" "+r.Actor+" "+r.Outcome)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"sign-in user/u-pseudonym of sub-1 ok": 2, "sign-in nobody/unknown unauthenticated": 1}
	got := map[string]int{}
	for _, o := range outcomes {
		got[o]++
	}
	for o, n := range want {
		if got[o] != n {
			t.Errorf("%q is recorded %d times, want %d; all: %v", o, got[o], n, outcomes)
		}
	}
}

// TestWrongCredentialsAreThrottled: an address that shows too many is not
// listened to for a while, whatever it brings; others are.
func TestWrongCredentialsAreThrottled(t *testing.T) {
	p := idp.Start(t, someone)
	config := access.Defaults()
	config.FailedLogins, config.LoginRefill = 3, time.Hour
	_, d := doors(t, config, p, access.Grant{Claim: "preferred_username", Value: "ada", Roles: []string{"viewer"}})
	good := p.Token("vigil", nil)
	for n, bad := range []string{"vgl_a_b", "vgllocal_X", p.Token("grafana", nil)} {
		if code := get(d, "/api/v1/query", bad, "192.0.2.1"); code != http.StatusUnauthorized {
			t.Errorf("wrong credential %d: status %d", n, code)
		}
	}
	for name, tc := range map[string]struct {
		secret, from string
		code         int
	}{
		"wrong once more":    {"vgl_a_b", "192.0.2.1", http.StatusTooManyRequests},
		"even a good one":    {good, "192.0.2.1", http.StatusTooManyRequests},
		"without any":        {"", "192.0.2.1", http.StatusUnauthorized},
		"another address":    {good, "192.0.2.2", http.StatusOK},
		"what is for anyone": {"", "192.0.2.1", http.StatusUnauthorized},
	} {
		if code := get(d, "/api/v1/query", tc.secret, tc.from); code != tc.code {
			t.Errorf("%s: status %d, want %d", name, code, tc.code)
		}
	}
	if code := get(d, "/healthz", "", "192.0.2.1"); code != http.StatusOK {
		t.Errorf("health: status %d", code)
	}
	asked := p.Asked("/keys")
	for range 20 {
		get(d, "/api/v1/query", idp.Sign(t, idp.NewKey(t), map[string]any{"iss": p.Issuer()}), "192.0.2.1")
	}
	if more := p.Asked("/keys") - asked; more != 0 {
		t.Errorf("a throttled address had the provider asked %d times", more)
	}
}

// TestCallersAreBounded: each caller has a rate of his own.
func TestCallersAreBounded(t *testing.T) {
	p := idp.Start(t, someone)
	config := access.Defaults()
	config.Rate, config.Burst = 1, 5
	_, d := doors(t, config, p, access.Grant{Claim: "preferred_username", Value: "ada", Roles: []string{"viewer"}})
	token, other := p.Token("vigil", nil), d.Secret
	refused := 0
	for range 50 {
		if get(d, "/api/v1/query", token, "192.0.2.1") == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused < 40 {
		t.Errorf("of 50 calls at once %d were refused", refused)
	}
	if code := get(d, "/api/v1/query", token, "192.0.2.9"); code != http.StatusTooManyRequests {
		t.Errorf("from another address the same caller gets %d", code)
	}
	if code := get(d, "/api/v1/query", other, "127.0.0.1"); code != http.StatusOK {
		t.Errorf("another caller gets %d", code)
	}
}

// TestWrongSignaturesAreThrottled: a receiver's callback proves itself by its
// signature, and wrong ones count as any wrong credential does, also against the
// address's calls by other ways.
func TestWrongSignaturesAreThrottled(t *testing.T) {
	p := idp.Start(t, someone)
	config := access.Defaults()
	config.FailedLogins, config.LoginRefill = 3, time.Hour
	_, d := doors(t, config, p)
	handled := 0
	call := func(from string) int {
		request := httptest.NewRequest(http.MethodPost, "/hooks/v1/slack", nil)
		request.RemoteAddr = from + ":1234"
		answer := httptest.NewRecorder()
		d.Guard.Web(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			handled++
			w.WriteHeader(http.StatusUnauthorized)
		})).ServeHTTP(answer, request)
		return answer.Code
	}
	for n := range 6 {
		want := http.StatusUnauthorized
		if n >= 3 {
			want = http.StatusTooManyRequests
		}
		if code := call("192.0.2.1"); code != want {
			t.Errorf("wrong signature %d: status %d, want %d", n, code, want)
		}
	}
	if code := call("192.0.2.2"); code != http.StatusUnauthorized || handled != 4 {
		t.Errorf("another address: status %d; %d were handled", code, handled)
	}
	if code := get(d, "/api/v1/query", "vgladmin_A", "192.0.2.1"); code != http.StatusTooManyRequests {
		t.Errorf("another credential of the address: status %d", code)
	}
}
