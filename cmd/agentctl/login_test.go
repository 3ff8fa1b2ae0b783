package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/controlplane"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/localkey"
	"github.com/vigil-ml/vigil/internal/testkit"
	"github.com/vigil-ml/vigil/internal/testkit/idp"
)

// signedInWith is a person with agentctl, and a control plane over TLS on
// loopback at which people sign in.
type signedInWith struct {
	*testing.T
	provider *idp.Provider
	address  string
}

func freeAddress(t *testing.T) string {
	return net.JoinHostPort("127.0.0.1", testkit.FreePort(t))
}

func openSignIn(t *testing.T, more string) *signedInWith {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("XDG_STATE_HOME", filepath.Join(dir, "state"))
	for _, name := range []string{"VIGIL_TOKEN", "VIGIL_TOKEN_FILE", "VIGIL_SERVER", "VIGIL_CA_FILE"} {
		t.Setenv(name, "")
	}
	s := &signedInWith{T: t, address: freeAddress(t), provider: idp.Start(t, map[string]any{
		"sub": "sub-1", "preferred_username": "ada", "groups": []string{"ml"},
	})}
	c := controlplane.Defaults()
	text := fmt.Sprintf(`state_dir: %s
api: {listen: %q, tls: {on: true}}
agents: {listen: %q}
access: {oidc: {issuer: %q, client_id: agentctl, grants: [{claim: groups, value: ml, roles: [operator], projects: [llm]}]}}
%s
`, filepath.Join(dir, "controlplane"), s.address, freeAddress(t), s.provider.Issuer(), more)
	if err := conf.Decode("controlplane.yaml", []byte(text), &c); err != nil {
		t.Fatal(err)
	}
	group := life.NewGroup(context.Background())
	group.Go("control plane", func(ctx context.Context) error { return controlplane.Run(ctx, c, io.Discard) })
	t.Cleanup(func() {
		group.Stop()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
	testkit.Eventually(t, "a control plane", func() bool {
		secret, err := localkey.Find(s.address, localkey.Operator)
		return err == nil && secret != ""
	})
	return s
}

// agentctl runs a command; what it says of itself is in notes. It is not on the
// control plane's machine, so to say: it finds no local secret.
func (s *signedInWith) agentctl(args ...string) (code int, out, notes string) {
	s.Helper()
	var stdout, stderr bytes.Buffer
	a := newApp(&stdout, &stderr, os.Getenv)
	a.browse = func(ctx context.Context, at string) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		return response.Body.Close()
	}
	code = a.run(s.Context(), append([]string{"--server", s.address, "--timeout", "30s"}, args...))
	return code, stdout.String(), stderr.String()
}

// who is as whom agentctl comes in.
func (s *signedInWith) who() (kind, auth string) {
	s.Helper()
	code, out, notes := s.agentctl("access", "whoami", "-o", "json")
	var answer struct {
		Caller struct{ Kind, Name, Auth string }
	}
	if code != 0 {
		return fmt.Sprint("exit ", code), notes
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		s.Fatalf("%v in %s", err, out)
	}
	return answer.Caller.Kind, answer.Caller.Auth
}

// elsewhere takes away what a control plane leaves for its own user, and gives
// the pin.
func (s *signedInWith) elsewhere() (pin string) {
	s.Helper()
	code, pin, notes := s.agentctl("access", "pin")
	if code != 0 {
		s.Fatalf("access pin: %s", notes)
	}
	if kind, _ := s.who(); kind != "local" {
		s.Fatalf("on the control plane's machine its user comes in as %s", kind)
	}
	left, err := filepath.Glob(filepath.Join(localkey.Dir(), "*"))
	if err != nil || len(left) < 3 {
		s.Fatalf("left are %v, %v", left, err)
	}
	for _, file := range left {
		if err := os.Remove(file); err != nil {
			s.Fatal(err)
		}
	}
	return strings.TrimSpace(pin)
}

// TestSigningIn: from the pin of a control plane that is not known yet to calls
// as oneself, with a code and with a browser; renewed when it runs out, and gone
// after logout.
func TestSigningIn(t *testing.T) {
	for _, how := range []string{"", "--browser"} {
		t.Run("with"+how, func(t *testing.T) {
			s := openSignIn(t, "")
			s.provider.Pending(1)
			pin := s.elsewhere()
			if code, _, notes := s.agentctl("login", "--pin", strings.Repeat("0", 64)); code == 0 || !strings.Contains(notes, "not the one") {
				t.Errorf("a pin of another: %d %s", code, notes)
			}
			if kind, notes := s.who(); kind != "exit 69" {
				t.Errorf("without a pin: %s %s", kind, notes)
			}
			code, _, notes := s.agentctl(append([]string{"login", "--pin", pin}, strings.Fields(how)...)...)
			if code != 0 || !strings.Contains(notes, "Signed in at "+s.provider.Issuer()) {
				t.Fatalf("login: %d %s", code, notes)
			}
			if how == "" && !strings.Contains(notes, "enter WDJB-MJHT") {
				t.Errorf("login shows no code: %s", notes)
			}
			if kind, auth := s.who(); kind != "user" || auth != "oidc" {
				t.Errorf("comes in as %s by %s", kind, auth)
			}
			if code, _, notes := s.agentctl("access", "tokens"); code != 77 || !strings.Contains(notes, "may not") {
				t.Errorf("an operator reads tokens: %d %s", code, notes)
			}
			path := loginPath(s.address)
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the login's file: %v, %v", info, err)
			}
			if code, _, notes := s.agentctl("logout"); code != 0 {
				t.Errorf("logout: %s", notes)
			}
			if kind, notes := s.who(); kind != "exit 77" || !strings.Contains(notes, "says not who") {
				t.Errorf("after logout: %s %s", kind, notes)
			}
			if text, err := os.ReadFile(path); err != nil || strings.Contains(string(text), "eyJ") {
				t.Errorf("logout left %s, %v", text, err)
			}
		})
	}
}

// TestSignInIsRenewed: a token that has run out is renewed with a refresh token
// that is good once, also by two at a time; when the provider has had enough, the
// person is told what to do.
func TestSignInIsRenewed(t *testing.T) {
	s := openSignIn(t, "")
	s.provider.WithoutDevices()
	pin := s.elsewhere()
	s.provider.Lifetime(30 * time.Second) // about to run out from the start
	if code, _, notes := s.agentctl("login", "--pin", pin); code != 0 {
		t.Fatalf("login: %s", notes)
	}
	to := &app{stdout: io.Discard, stderr: io.Discard, getenv: os.Getenv, server: s.address}
	first, err := to.login(s.address)
	if err != nil {
		t.Fatal(err)
	}
	s.provider.Lifetime(time.Hour)
	tokens := make(chan string, 4)
	group := life.NewGroup(t.Context())
	for range cap(tokens) {
		group.Go("caller", func(ctx context.Context) error {
			token, err := to.signedIn(ctx, s.address, first)
			tokens <- token
			return err
		})
	}
	for range cap(tokens) {
		if token := <-tokens; token == "" || token == first.IDToken {
			t.Errorf("not renewed: %.20q", token)
		}
	}
	group.Stop()
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if kind, auth := s.who(); kind != "user" || auth != "oidc" {
		t.Errorf("comes in as %s by %s", kind, auth)
	}
	spent := first
	spent.Expires = time.Now().Add(-time.Second)
	if err := keepLogin(s.address, spent); err != nil {
		t.Fatal(err)
	}
	if kind, notes := s.who(); kind != "exit 77" || !strings.Contains(notes, "agentctl login") {
		t.Errorf("with a refresh token that was used: %s %s", kind, notes)
	}
	if err := os.Chmod(loginPath(s.address), 0o644); err != nil {
		t.Fatal(err)
	}
	if kind, notes := s.who(); kind != "exit 77" || !strings.Contains(notes, "read by others") || !strings.Contains(notes, "chmod 600 "+loginPath(s.address)) {
		t.Errorf("a login that others can read: %s %s", kind, notes)
	}
	if err := os.Chmod(loginPath(s.address), 0o600); err != nil { // as is said there
		t.Fatal(err)
	}
	if l, err := to.login(s.address); err != nil || l.RefreshToken != spent.RefreshToken {
		t.Errorf("afterwards: %v", err)
	}
}

// TestTheBrowserOutlivesTheSignIn: it is not ended with what waited for it.
func TestTheBrowserOutlivesTheSignIn(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the browser is opened by another program")
	}
	dir := t.TempDir()
	script := "#!/bin/sh\ncd " + dir + "\necho \"$1\" >opened\nwhile [ ! -e go ]; do sleep 0.01; done\n>alive\n"
	if err := os.WriteFile(filepath.Join(dir, "xdg-open"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	ctx, cancel := context.WithCancel(t.Context())
	if err := openBrowser(ctx, "https://example.org"); err != nil {
		t.Fatal(err)
	}
	there := func(name string) func() bool {
		return func() bool { _, err := os.Stat(filepath.Join(dir, name)); return err == nil }
	}
	testkit.Eventually(t, "the browser to open", there("opened"))
	cancel()
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the browser to go on", there("alive"))
}

// TestSignInIsRefused: who says no at the provider, or may not sign in there, is
// told so at once, in the browser and by agentctl, with what to do.
func TestSignInIsRefused(t *testing.T) {
	s := openSignIn(t, "")
	pin := s.elsewhere()
	s.provider.Refuse("access_denied", "The user\x1b[2J is not\nin the group ops")
	code, _, notes := s.agentctl("login", "--pin", pin, "--browser")
	for _, want := range []string{"access_denied: The user [2J is not in the group ops", "agentctl login --browser asks again"} {
		if !strings.Contains(notes, want) {
			t.Errorf("login says nothing of %q: %s", want, notes)
		}
	}
	if code != 77 {
		t.Errorf("login ends with %d", code)
	}
	if l, err := (&app{}).login(s.address); err != nil || l.IDToken != "" {
		t.Errorf("a sign-in is kept: %v", err)
	}
	s.provider.Refuse("", "")
	if code, _, notes := s.agentctl("login", "--browser"); code != 0 {
		t.Errorf("afterwards: %s", notes)
	}
}

// TestBrowserThatComesBackWrong: only an answer to our own question counts.
func TestBrowserThatComesBackWrong(t *testing.T) {
	codes := make(chan answer, 1)
	handler := comesBack("mine", codes)
	for _, tc := range []struct {
		target string
		status int
	}{
		{"/callback?state=other&code=c", 400}, {"/callback?code=c", 400}, {"/callback?state=mine", 400},
		{"/elsewhere?state=mine&code=c", 400}, {"/callback?state=other&error=access_denied", 400}, {"/callback?error=access_denied", 400}, {"/callback?state=mine&code=good", 200}, {"/callback?state=mine&code=again", 200},
	} {
		request, err := http.NewRequest(http.MethodGet, tc.target, nil)
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, request)
		if w.Code != tc.status {
			t.Errorf("%s: %d", tc.target, w.Code)
		}
	}
	if got := <-codes; got.code != "good" || got.refused != nil {
		t.Errorf("the answer is %+v", got)
	}
}
