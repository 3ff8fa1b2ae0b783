package access_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/vigil-ml/vigil/controlplane/access"
	"github.com/vigil-ml/vigil/internal/testkit/idp"
)

// TestPathsThatClimb: no way of writing a path gets somebody to a page whose rule
// refuses them.
func TestPathsThatClimb(t *testing.T) {
	p := idp.Start(t, someone)
	_, d := doors(t, access.Defaults(), p, access.Grant{Claim: "preferred_username", Value: "ada", Roles: []string{"viewer"}})
	viewer := p.Token("vigil", nil)
	mux := http.NewServeMux()
	reached := ""
	for _, page := range []string{"/debug/pprof/", "/api/v1/", "/api/v2/", "/healthz", "/secret"} {
		mux.HandleFunc(page, func(http.ResponseWriter, *http.Request) { reached = page })
	}
	guarded := d.Guard.Web(mux)
	for _, tc := range []struct{ method, path, secret, may string }{
		{"GET", "/debug/pprof/heap", viewer, ""}, {"GET", "/api/v1/../../debug/pprof/heap", viewer, ""},
		{"GET", "/api/v1/%2e%2e/%2e%2e/debug/pprof/heap", viewer, "/api/v1/"}, {"GET", "//debug/pprof/heap", viewer, ""},
		{"GET", "/api/v1/..;/..;/debug/pprof/", viewer, "/api/v1/"}, {"GET", "/DEBUG/pprof/", viewer, ""},
		{"GET", "/debug%2fpprof%2f", viewer, ""}, {"GET", "/api/v1/..%2f..%2fdebug/pprof/", viewer, "/api/v1/"},
		{"GET", "/healthz/../debug/pprof/", "", ""}, {"GET", "/healthz/..", "", ""}, {"GET", "/healthz?x=/debug/pprof/", "", "/healthz"},
		{"POST", "/api/v2/alerts", viewer, ""}, {"GET", "/api/v2/alerts", viewer, "/api/v2/"}, {"DELETE", "/api/v2/silence/x", viewer, ""},
		{"PATCH", "/api/v2/alerts", viewer, ""}, {"POST", "/healthz", "", ""}, {"GET", "/secret", viewer, ""}, {"GET", "/", viewer, ""},
		{"HEAD", "/api/v1/query", "", ""}, {"OPTIONS", "/api/v1/query", "", ""}, {"CONNECT", "/api/v1/query", "", ""},
	} {
		request := httptest.NewRequest(tc.method, "/", nil)
		target, err := url.ParseRequestURI(tc.path)
		if err != nil {
			t.Fatal(err)
		}
		request.URL = target
		request.RemoteAddr = "192.0.2.1:1"
		if tc.secret != "" {
			request.Header.Set("Authorization", "Bearer "+tc.secret)
		}
		reached = ""
		guarded.ServeHTTP(httptest.NewRecorder(), request)
		if reached != tc.may {
			t.Errorf("%s %s reaches %q, want %q", tc.method, tc.path, reached, tc.may)
		}
	}
}
