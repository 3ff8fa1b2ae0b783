package notifytest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/alerting/notify"
)

// secretPath is what every URL of the suite ends in; none of its parts may
// ever be seen.
const secretPath = "/services/T0SECRET01/B0SECRET02/s3cretT0kenXYZ?key=querySECRET03"

// Request is what a receiver got.
type Request struct {
	Method string
	Header http.Header
	Body   []byte
}

// Suite is one notifier under test.
type Suite struct {
	// New makes the notifier for a receiver at a URL.
	New func(t *testing.T, url string, deps notify.Deps) notify.Notifier
	// Key reads from a request what the receiver knows the incident by.
	Key func(t *testing.T, r Request) string
	// Success is the body of an answer that takes a delivery; may be empty.
	Success string
	// Reads tells that a receiver says only in the answer's body whether it took a
	// delivery: an answer that cannot be read is then to be tried again.
	Reads bool
}

// Run runs the suite.
func Run(t *testing.T, s Suite) {
	t.Run("delivers once", s.deliversOnce)
	t.Run("one incident has one key", s.stableKey)
	t.Run("answers", s.answers)
	t.Run("waits as asked", s.waits)
	t.Run("bad connections", s.connections)
	t.Run("a hanging receiver", s.hang)
	t.Run("an endless answer", s.endless)
	t.Run("redirects are not followed", s.redirect)
}

// receiver is a server that behaves as told and keeps what it got.
type receiver struct {
	*httptest.Server
	mu   sync.Mutex
	seen []Request
}

func newReceiver(t *testing.T, answer http.HandlerFunc) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		if err != nil {
			t.Errorf("read request: %v", err)
		}
		r.mu.Lock()
		r.seen = append(r.seen, Request{Method: request.Method, Header: request.Header.Clone(), Body: body})
		r.mu.Unlock()
		answer(w, request)
	}))
	t.Cleanup(r.Close)
	return r
}

// requests gives what came so far.
func (r *receiver) requests() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen
}

// notify makes one try at a URL and checks that error and log keep the secrets.
func (s Suite) notify(ctx context.Context, t *testing.T, base string) error {
	t.Helper()
	var log bytes.Buffer
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	n := s.New(t, base+secretPath, notify.Deps{
		HTTPClient: client, Receiver: "oncall",
		Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := n.Notify(ctx, Firing())
	texts := log.String()
	for e := err; e != nil; e = errors.Unwrap(e) {
		texts += "\n" + e.Error()
	}
	for _, secret := range []string{"SECRET", "s3cret"} {
		if strings.Contains(texts, secret) {
			t.Errorf("a secret can be seen in error or log:\n%s", texts)
		}
	}
	return err
}

func (s Suite) deliversOnce(t *testing.T) {
	for _, status := range []int{200, 201, 202, 204} {
		if s.Reads && status == http.StatusNoContent {
			continue
		}
		r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			if status != http.StatusNoContent {
				_, _ = io.WriteString(w, s.Success)
			}
		})
		if err := s.notify(t.Context(), t, r.URL); err != nil {
			t.Errorf("%d: %v", status, err)
		}
		got := r.requests()
		if len(got) != 1 || got[0].Method != http.MethodPost || !strings.HasPrefix(got[0].Header.Get("Content-Type"), "application/json") {
			t.Errorf("%d: the receiver got %d requests, want one POST of JSON", status, len(got))
		}
	}
}

func (s Suite) stableKey(t *testing.T) {
	r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s.Success) })
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	n := s.New(t, r.URL+secretPath, notify.Deps{HTTPClient: client, Log: slog.New(slog.DiscardHandler), Receiver: "oncall"})
	first, repeat, over, other := Firing(), Firing(), Resolved(), Firing()
	repeat.Tries = 3
	other.ID, other.Key, other.Incident.IncidentId = "inc-2/oncall/1", "inc-2/oncall", "inc-2"
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := errors.Join(n.Notify(ctx, first), n.Notify(ctx, repeat), n.Notify(ctx, over), n.Notify(ctx, other)); err != nil {
		t.Fatal(err)
	}
	got := slices.DeleteFunc(r.requests(), func(r Request) bool { return r.Method != http.MethodPost }) // it may look before it repeats
	if string(got[0].Body) != string(got[1].Body) {
		t.Errorf("a repeat differs:\n%s\n%s", got[0].Body, got[1].Body)
	}
	key := s.Key(t, got[0])
	if key == "" || s.Key(t, got[1]) != key || s.Key(t, got[2]) != key {
		t.Errorf("keys of one incident: %q, %q and, resolved, %q", key, s.Key(t, got[1]), s.Key(t, got[2]))
	}
	if s.Key(t, got[3]) == key {
		t.Errorf("another incident has the same key %q", key)
	}
}

// echo answers with a status and with every secret of the request.
func echo(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "no such hook: http://"+r.Host+r.RequestURI+" \x00\n"+r.URL.Path+" "+r.Header.Get("Authorization"))
		_, _ = io.WriteString(w, strings.Repeat(" "+r.URL.Path, 200))
	}
}

func (s Suite) answers(t *testing.T) {
	for status, permanent := range map[int]bool{
		400: true, 401: true, 403: true, 404: true, 405: true, 410: true, 413: true, 304: true,
		408: false, 425: false, 429: false, 500: false, 502: false, 503: false, 504: false, 599: false,
	} {
		r := newReceiver(t, echo(status))
		err := s.notify(t.Context(), t, r.URL)
		if err == nil || notify.IsPermanent(err) != permanent {
			t.Errorf("%d: permanent = %v, want %v: %v", status, notify.IsPermanent(err), permanent, err)
		}
		if _, throttled := notify.ThrottledFor(err); throttled {
			t.Errorf("%d without Retry-After asks for a wait", status)
		}
		if n := len(r.requests()); n != 1 {
			t.Errorf("%d: %d requests in one try", status, n)
		}
	}
}

func (s Suite) waits(t *testing.T) {
	now := time.Date(2026, 3, 1, 3, 12, 9, 0, time.UTC)
	for _, test := range []struct {
		status int
		header string
		want   time.Duration
		ok     bool
	}{
		{429, "3", 3 * time.Second, true},
		{429, "120", 2 * time.Minute, true},
		{503, "3", 3 * time.Second, true},
		{429, now.Add(7 * time.Second).Format(http.TimeFormat), 7 * time.Second, true},
		{429, now.Add(-time.Hour).Format(http.TimeFormat), time.Second, true},
		{429, "0", time.Second, true},
		{429, "-4", time.Second, true},
		{429, "soon", 0, false},
		{429, "99999999999999999999", 0, false},
	} {
		r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", test.header)
			w.Header().Set("Date", now.Format(http.TimeFormat))
			w.WriteHeader(test.status)
		})
		err := s.notify(t.Context(), t, r.URL)
		if got, ok := notify.ThrottledFor(err); err == nil || ok != test.ok || got != test.want {
			t.Errorf("%d with Retry-After %q: wait %v, %v; want %v, %v", test.status, test.header, got, ok, test.want, test.ok)
		}
		if notify.IsPermanent(err) {
			t.Errorf("%d with Retry-After %q is permanent", test.status, test.header)
		}
	}
}

// hijacked answers with raw bytes, or resets the connection when there are
// none.
func hijacked(raw string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		if tcp, ok := conn.(*net.TCPConn); ok && raw == "" {
			_ = tcp.SetLinger(0)
		}
		_, _ = io.WriteString(conn, raw)
	}
}

func (s Suite) connections(t *testing.T) {
	for name, raw := range map[string]string{
		"reset": "", "garbage": "\x00\x01 no HTTP at all\r\n\r\n", "a header cut off": "HTTP/1.1 200 OK\r\nContent-Le",
	} {
		r := newReceiver(t, hijacked(raw))
		if err := s.notify(t.Context(), t, r.URL); err == nil || notify.IsPermanent(err) {
			t.Errorf("%s: %v, want an error that can be tried again", name, err)
		}
	}
	cut := newReceiver(t, hijacked("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok"))
	if err := s.notify(t.Context(), t, cut.URL); (err != nil) != s.Reads || notify.IsPermanent(err) {
		t.Errorf("a 200 whose body is cut off: %v", err)
	}
	gone := newReceiver(t, hijacked(""))
	gone.Close()
	if err := s.notify(t.Context(), t, gone.URL); err == nil || notify.IsPermanent(err) {
		t.Errorf("nobody listens: %v, want an error that can be tried again", err)
	}
}

func (s Suite) hang(t *testing.T) {
	r := newReceiver(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := s.notify(ctx, t, r.URL)
	if !errors.Is(err, context.DeadlineExceeded) || notify.IsPermanent(err) {
		t.Errorf("error = %v, want the deadline", err)
	}
}

func (s Suite) endless(t *testing.T) {
	for _, status := range []int{200, 500} {
		r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			for {
				if _, err := io.WriteString(w, strings.Repeat("x", 1<<16)); err != nil {
					return
				}
			}
		})
		if err := s.notify(t.Context(), t, r.URL); (err == nil) != (status == 200 && !s.Reads) || len(errorText(err)) > 1000 {
			t.Errorf("%d with an endless body: %d bytes of error", status, len(errorText(err)))
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (s Suite) redirect(t *testing.T) {
	elsewhere := newReceiver(t, func(http.ResponseWriter, *http.Request) {})
	for _, status := range []int{301, 302, 303, 307, 308} {
		r := newReceiver(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+"/taken", status)
		})
		if err := s.notify(t.Context(), t, r.URL); !notify.IsPermanent(err) {
			t.Errorf("%d: %v, want a permanent error", status, err)
		}
	}
	if n := len(elsewhere.requests()); n != 0 {
		t.Errorf("%d requests went where a redirect named", n)
	}
}
