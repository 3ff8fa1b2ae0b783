package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
)

const (
	// renewBefore is how long before its end a token is renewed.
	renewBefore = time.Minute
	lockRetry   = 50 * time.Millisecond
	// maxReason bounds what is shown of a provider's words, in characters.
	maxReason = 200
	callback  = "/callback"
)

const hintLogin = "agentctl login signs in again, agentctl logout forgets it"

// session is one conversation with a provider.
type session struct {
	config   oauth2.Config
	provider *oidc.Provider
	issuer   string
}

// discover asks a provider for its settings.
func discover(ctx context.Context, issuer, clientID string, scopes []string) (context.Context, *session, error) {
	ctx = oidc.ClientContext(ctx, &http.Client{Timeout: defaultTimeout})
	p, err := oidc.NewProvider(ctx, issuer)
	if err != nil {
		return ctx, nil, fault.Mark(fault.Unavailable, fmt.Errorf("ask %s how to sign in: %w", issuer, err))
	}
	endpoint := p.Endpoint()
	endpoint.AuthStyle = oauth2.AuthStyleInParams // agentctl has no secret
	return ctx, &session{oauth2.Config{ClientID: clientID, Endpoint: endpoint, Scopes: scopes}, p, issuer}, nil
}

// signIn has a person sign in.
func (a *app) signIn(ctx context.Context, where provider, browser bool) (login, error) {
	ctx, s, err := discover(ctx, where.Issuer, where.ClientID, where.Scopes)
	if err != nil {
		return login{}, err
	}
	if browser || s.config.Endpoint.DeviceAuthURL == "" {
		return a.signInHere(ctx, s)
	}
	device, err := s.config.DeviceAuth(ctx)
	if err != nil {
		return login{}, fault.Mark(fault.Unavailable, fmt.Errorf("ask for a code: %w", err))
	}
	a.note("Open %s and enter %s", device.VerificationURI, device.UserCode)
	token, err := s.config.DeviceAccessToken(ctx, device)
	if err != nil {
		return login{}, fault.Mark(fault.Unauthenticated, fmt.Errorf("wait for you to sign in: %w", err))
	}
	return s.loginOf(ctx, token, "")
}

// signInHere has the browser of this machine come back to a port on loopback
// (RFC 8252), with PKCE.
func (a *app) signInHere(ctx context.Context, s *session) (login, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return login{}, fmt.Errorf("listen for the browser: %w", err)
	}
	s.config.RedirectURL = "http://" + listener.Addr().String() + callback
	state, nonce, verifier := rand.Text(), rand.Text(), oauth2.GenerateVerifier()
	answers := make(chan answer, 1)
	server := &http.Server{ReadHeaderTimeout: defaultTimeout, Handler: comesBack(state, answers)}
	group := life.NewGroup(ctx)
	group.Go("browser", func(context.Context) error { return server.Serve(listener) })
	defer func() { _ = server.Close(); group.Stop(); _ = group.Wait() }()

	at := s.config.AuthCodeURL(state, oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier))
	a.note("Sign in with your browser; if it does not open: %s", at)
	if err := a.browse(ctx, at); err != nil {
		a.note("no browser opened: %v", err)
	}
	select {
	case <-ctx.Done():
		return login{}, fault.New(fault.Deadline, "wait for the browser: %w", ctx.Err())
	case got := <-answers:
		if got.refused != nil {
			return login{}, got.refused
		}
		token, err := s.config.Exchange(ctx, got.code, oauth2.VerifierOption(verifier))
		if err != nil {
			return login{}, fault.Mark(fault.Unauthenticated, fmt.Errorf("redeem the code: %w", err))
		}
		return s.loginOf(ctx, token, nonce)
	}
}

// answer is what the browser brings back: a code, or why there is none.
type answer struct {
	code    string
	refused error
}

// comesBack takes the answer from the browser, once, and only with our state.
func comesBack(state string, answers chan<- answer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		got := answer{code: query.Get("code")}
		if reason := query.Get("error"); reason != "" {
			got = answer{refused: refused(reason, query.Get("error_description"))}
		}
		if r.URL.Path != callback || query.Get("state") != state || got == (answer{}) {
			http.Error(w, "This is not an answer to agentctl login.", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if got.refused != nil {
			w.WriteHeader(http.StatusForbidden)
			_, _ = fmt.Fprintf(w, "You are not signed in: %v.\nClose this page; agentctl says what to do.\n", got.refused)
		} else {
			_, _ = fmt.Fprintln(w, "You are signed in; close this page.")
		}
		select {
		case answers <- got:
		default:
		}
	})
}

// refused is what a provider answers in a code's place (RFC 6749, 4.1.2.1), with
// what a person can do about it.
func refused(reason, description string) error {
	text := reason
	if description != "" {
		text += ": " + description
	}
	runes := []rune(cleanText(strings.ToValidUTF8(text, "?")))
	text = string(runes[:min(len(runes), maxReason)])
	hint := "if it goes on, whoever runs the provider finds why in its log; without a browser that comes back here: agentctl login"
	switch reason {
	case "access_denied":
		hint = "agentctl login --browser asks again; if you did not say no yourself, whoever runs the provider must let you use it"
	case "temporarily_unavailable", "server_error":
		hint = "it is the provider's trouble; try again later"
	}
	return fault.WithHint(fault.New(fault.Denied, "the sign-in's provider refuses (%s)", text), hint)
}

// openBrowser opens an address with this machine's browser.
func openBrowser(_ context.Context, at string) error {
	program := "xdg-open"
	if runtime.GOOS == "darwin" {
		program = "open"
	}
	// Not with the sign-in's context: the browser outlives it.
	return exec.Command(program, at).Start()
}

// loginOf checks what the provider gave.
func (s *session) loginOf(ctx context.Context, token *oauth2.Token, nonce string) (login, error) {
	text, _ := token.Extra("id_token").(string)
	checked, err := s.provider.Verifier(&oidc.Config{ClientID: s.config.ClientID}).Verify(ctx, text)
	if err != nil {
		return login{}, fault.New(fault.Unauthenticated, "check the ID token: %w", err)
	}
	if nonce != "" && checked.Nonce != nonce {
		return login{}, fault.New(fault.Unauthenticated, "the ID token answers another sign-in")
	}
	return login{
		Issuer: s.issuer, ClientID: s.config.ClientID, IDToken: text, RefreshToken: token.RefreshToken, Expires: checked.Expiry,
	}, nil
}

// signedIn gives the ID token of the user's sign-in l at an address, renewed when it
// is about to run out; "" where there is none.
func (a *app) signedIn(ctx context.Context, address string, l login) (string, error) {
	if l.IDToken == "" || time.Until(l.Expires) > renewBefore {
		return l.IDToken, nil
	}
	// Refresh tokens may be good once: no two of us at a time.
	for {
		unlock, err := durable.Lock(loginPath(address)+".lock", "the login")
		if err == nil {
			defer unlock()
			break
		}
		if !fault.Is(err, fault.Precondition) || !life.Sleep(ctx, lockRetry) {
			return "", err
		}
	}
	l, err := a.login(address)
	if err != nil || l.IDToken == "" || time.Until(l.Expires) > renewBefore {
		return l.IDToken, err
	}
	renewed, err := renew(ctx, l)
	if err != nil {
		if time.Now().Before(l.Expires) { // it is good for this call still
			return l.IDToken, nil
		}
		return "", fault.WithHint(fmt.Errorf("renew your sign-in: %w", err), hintLogin)
	}
	return renewed.IDToken, keepLogin(address, renewed)
}

// renew gets another ID token for the refresh token.
func renew(ctx context.Context, l login) (login, error) {
	if l.RefreshToken == "" {
		return l, fault.New(fault.Unauthenticated, "it has expired and the provider gave nothing to renew it with")
	}
	ctx, s, err := discover(ctx, l.Issuer, l.ClientID, nil)
	if err != nil {
		return l, err
	}
	token, err := s.config.TokenSource(ctx, &oauth2.Token{RefreshToken: l.RefreshToken}).Token()
	if err != nil {
		return l, fault.Mark(fault.Unauthenticated, err)
	}
	renewed, err := s.loginOf(ctx, token, "")
	if err != nil {
		return l, err
	}
	renewed.Authority = l.Authority
	return renewed, nil
}
