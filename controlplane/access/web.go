package access

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"google.golang.org/grpc/peer"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/serve"
)

// Web lets HTTP requests in that are no method calls, as [Routes] says. A path
// of which nothing is said there is refused.
func (g *Guard) Web(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		route, ok := routeOf(g.routes, r)
		if !ok {
			http.NotFound(w, r)
			return
		}
		c := webCredential(r)
		if route.Open == Public || (route.Open == OnMachine && here(r, c)) {
			next.ServeHTTP(w, r)
			return
		}
		rule := Rule{Method: r.Method + " " + route.Prefix, Role: route.Role, Class: route.Class}
		inside, call, err := g.enterWeb(r.Context(), rule, route, c)
		if err != nil {
			refuseWeb(w, err)
			return
		}
		seen := &statusWriter{ResponseWriter: w}
		next.ServeHTTP(seen, r.WithContext(inside))
		if err := call.leave(r.Context(), seen.err()); err != nil && seen.status == 0 {
			refuseWeb(w, err)
		}
	})
}

// Admit says whether a call by JSON is read at all: who makes it must be known
// before its body comes. Whether they may is for [Guard.Unary].
func (g *Guard) Admit(r *http.Request) error {
	c := Credential{Bearer: bearer(r.Header.Get("Authorization")), Source: webCredential(r).Source}
	if _, err := g.identify(r.Context(), c); err != nil {
		rule := g.ruleOf(r.URL.Path)
		record := recordOf(rule)
		record.Actor, record.Personal = (*Identity)(nil).Actor(), personalOf(nil, c.Source.String())
		return g.refuse(r.Context(), record, c, err)
	}
	return nil
}

// Head says whether a gRPC call is read at all: it must bring a credential, from an
// address that is listened to. It is quick, as nothing else of the connection is
// read meanwhile; whether the credential is good is for [Guard.Unary].
func (g *Guard) Head(ctx context.Context) error {
	c := credentialOf(ctx)
	if from, ok := peer.FromContext(ctx); ok && from.Addr.Network() == "bufconn" {
		return nil // Admit has seen it
	}
	if err := g.present(c); err != nil {
		if fault.Is(err, fault.Unauthenticated) {
			g.denied.WithLabelValues(reasonUnknown).Inc()
		}
		return err
	}
	return nil
}

func (g *Guard) enterWeb(ctx context.Context, rule Rule, route Route, c Credential) (context.Context, *call, error) {
	if route.Open != Signed {
		return g.enter(ctx, rule, c, nil)
	}
	// The handler knows who it is by the signature of what they send.
	sender := &Identity{Kind: "receiver", ID: "callback", Name: "callback", Auth: "signature", Source: c.Source.String()}
	if !g.logins.would(sender.Source) {
		g.denied.WithLabelValues(reasonThrottled).Inc()
		return ctx, nil, throttled(sender.Source)
	}
	if !g.calls.take("callback " + sender.Source) {
		g.denied.WithLabelValues(reasonRate).Inc()
		return ctx, nil, fault.WithRetry(fault.New(fault.Exhausted, "more than %v callbacks a second come from %s", g.config.Rate, sender.Source), time.Second)
	}
	out := &call{guard: g, identity: sender, rule: rule, record: recordOf(rule), signed: true}
	out.record.Actor = sender.Actor()
	inside, err := out.begin(With(ctx, sender))
	return inside, out, err
}

// webCredential gives what a request brings: a bearer token, or one as the
// password of basic authentication, for programs that know only that.
func webCredential(r *http.Request) Credential {
	c := Credential{Bearer: bearer(r.Header.Get("Authorization"))}
	if _, password, ok := r.BasicAuth(); ok {
		c.Bearer = password
	}
	if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		c.Source = from.Addr().Unmap()
	}
	return c
}

// here tells whether the request was made on this machine, and not handed on
// by a proxy on it.
func here(r *http.Request, c Credential) bool {
	for _, header := range []string{"X-Forwarded-For", "Forwarded", "X-Real-Ip", "Via"} {
		if r.Header.Get(header) != "" {
			return false
		}
	}
	return c.Source.IsLoopback()
}

func refuseWeb(w http.ResponseWriter, err error) {
	status := fault.KindOf(err).HTTPStatus()
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="vigil"`)
	}
	if after, ok := fault.RetryAfterOf(err); ok {
		serve.SetRetryAfter(w, after)
	}
	text := err.Error()
	if hint := fault.HintOf(err); hint != "" {
		text += " (" + hint + ")"
	}
	http.Error(w, strings.ToValidUTF8(text, "?"), status)
}

// statusWriter remembers how a request was answered.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader remembers the status.
func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write answers with status 200 where nothing was said.
func (w *statusWriter) Write(text []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(text)
}

// Unwrap is the writer below, for [http.ResponseController].
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// err gives the status as an error; nil for one below 400.
func (w *statusWriter) err() error {
	for _, kind := range []fault.Kind{fault.Invalid, fault.Unauthenticated, fault.Denied, fault.NotFound, fault.Exists, fault.Exhausted, fault.Unavailable, fault.Deadline} {
		if kind.HTTPStatus() == w.status {
			return fault.New(kind, "answered with status %d", w.status)
		}
	}
	if w.status >= http.StatusBadRequest {
		return fault.New(fault.Internal, "answered with status %d", w.status)
	}
	return nil
}
