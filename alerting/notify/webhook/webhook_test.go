package webhook

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/alerting/notify/notifytest"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/telemetry"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	notifytest.Run(t, notifytest.Suite{
		New: func(t *testing.T, url string, deps notify.Deps) notify.Notifier {
			n, err := New(Config{
				URL: notify.Secret(url), BearerToken: "bearerSECRET",
				Headers: map[string]notify.Secret{"x-team": "headerSECRET"},
			}, deps)
			if err != nil {
				t.Fatal(err)
			}
			return n
		},
		Key: func(t *testing.T, r notifytest.Request) string {
			var p payload
			if err := json.Unmarshal(r.Body, &p); err != nil {
				t.Fatal(err)
			}
			return p.GroupKey + " " + p.Alerts[0].Fingerprint
		},
	})
}

func TestPayloads(t *testing.T) {
	acknowledged, bare := notifytest.Firing(), notifytest.Firing()
	acknowledged.State = controlv1.IncidentState_INCIDENT_STATE_ACKNOWLEDGED
	bare.Incident = &controlv1.Incident{IncidentId: "inc-1", RunId: "digits-7"}
	for name, delivery := range map[string]any{
		"firing":       payloadOf(notifytest.Firing(), "http://vigil.example:8080"),
		"resolved":     payloadOf(notifytest.Resolved(), "http://vigil.example:8080"),
		"acknowledged": payloadOf(acknowledged, ""),
		"bare":         payloadOf(bare, ""),
	} {
		got, err := json.Marshal(delivery)
		if err != nil {
			t.Fatal(err)
		}
		notifytest.Golden(t, name, got)
	}
}

func TestHeaders(t *testing.T) {
	var got http.Header
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }))
	defer server.Close()
	client := server.Client()
	defer client.CloseIdleConnections()
	n, err := New(Config{
		URL: notify.Secret(server.URL), BearerToken: "t0ken", Headers: map[string]notify.Secret{"x-scope-orgid": "vision"},
	}, notify.Deps{HTTPClient: client, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	if err := n.Notify(telemetry.WithTraceparent(t.Context(), parent), notifytest.Firing()); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"Authorization": "Bearer t0ken", "X-Scope-Orgid": "vision", "Traceparent": parent,
		"Idempotency-Key": notifytest.Firing().ID, "User-Agent": "vigil",
	} {
		if got.Get(name) != want {
			t.Errorf("%s = %q, want %q", name, got.Get(name), want)
		}
	}
}

func TestConfig(t *testing.T) {
	for text, want := range map[string]string{
		"url: http://localhost:9/x":                       "",
		"url: https://hooks.example/x\nbearer_token: abc": "",
		"":                                          "f.yaml: url: is missing; want the receiver's http or https URL",
		"url: hooks.example/SECRET":                 "f.yaml:1: url: does not begin with http:// or https://",
		"url: 'http:///SECRET'":                     "f.yaml:1: url: names no host",
		"url: 'http://SECRET%zz'":                   "f.yaml:1: url: is not a URL",
		"url: http://h\nbearer_token: \"a\\nb\"":    "f.yaml:2: bearer_token: holds a line break or a control character",
		"url: http://h\nheaders: {'a b': c}":        `f.yaml:2: headers: "a b" is not the name of a header`,
		"url: http://h\nheaders: {a: \"b\\r\\nc\"}": "f.yaml:1: headers.a: holds a line break or a control character",
		"url: http://h\nuri: x":                     `f.yaml:2: uri: unknown key; did you mean "url"?`,
		"url: http://h\nbearer_token: a\nheaders: {authorization: b}": "f.yaml:1: headers.authorization: is also set by bearer_token; keep one of the two",
	} {
		var c Config
		got := ""
		if err := conf.Decode("f.yaml", []byte(text), &c); err != nil {
			got = err.Error()
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: -want +got:\n%s", text, diff)
		}
		if strings.Contains(got, "SECRET") {
			t.Errorf("%q: the error shows the URL: %s", text, got)
		}
	}
}

func TestASignedRequestProvesBodyAndTime(t *testing.T) {
	var header http.Header
	var body []byte
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		header = r.Header
		body, _ = io.ReadAll(r.Body)
	}))
	defer server.Close()
	client := server.Client()
	defer client.CloseIdleConnections()
	secret := filepath.Join(t.TempDir(), "secret")
	n, err := New(Config{URL: notify.Secret(server.URL), SigningSecret: notify.Secret("${file:" + secret + "}")}, notify.Deps{
		HTTPClient: client, Log: slog.New(slog.DiscardHandler), Clock: func() time.Time { return time.Unix(1767000000, 0) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Notify(t.Context(), notifytest.Firing()); err == nil || notify.IsPermanent(err) {
		t.Errorf("without its secret: %v, want an error that can be tried again", err)
	}
	for _, value := range []string{"first", "rotated"} {
		if err := os.WriteFile(secret, []byte(value+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := n.Notify(t.Context(), notifytest.Firing()); err != nil {
			t.Fatal(err)
		}
		at := header.Get("X-Vigil-Timestamp")
		if at != "1767000000" || !notify.Signed("v1=", header.Get("X-Vigil-Signature"), value, []byte("v1:"+at+":"), body) {
			t.Errorf("%s: %v", value, header)
		}
	}
}
