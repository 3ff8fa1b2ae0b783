package elastic

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/controlplane/export"
	"github.com/vigil-ml/vigil/controlplane/export/elastic/elastictest"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/fault"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		http.DefaultClient.CloseIdleConnections()
		os.Exit(code)
	}))
}

func TestFakeServer(t *testing.T) {
	suite(t, func(t *testing.T) server {
		fake := elastictest.New(t)
		fake.MaxBodyBytes = 1 << 20
		return server{url: fake.URL(), t: t}
	})
}

func TestThePolicyIsSetUpWhereThereIsLifecycleManagement(t *testing.T) {
	for _, lifecycle := range []bool{true, false} {
		fake := elastictest.New(t)
		fake.Lifecycle = lifecycle
		e := server{url: fake.URL(), t: t}.opened("policy", nil)
		exported(t, e, documents("a"))
		want := map[bool]string{true: "vigil-policy", false: ""}[lifecycle]
		same(t, "policy of the template", want, fake.Policy("vigil-policy"))
	}
}

func TestAnotherProductIsRefusedUnlessToldOtherwise(t *testing.T) {
	fake := elastictest.New(t)
	fake.Product, fake.Lifecycle = "", false
	s := server{url: fake.URL(), t: t}
	_, err := s.opened("other", nil).Export(t.Context(), documents("a"))
	if !fault.Is(err, fault.Unsupported) {
		t.Errorf("error %v, want an unsupported one", err)
	}
	any := s.opened("other", func(c *Config) { c.AnyProduct = true })
	same(t, "with any_product", []string{"taken"}, exported(t, any, documents("a")))
}

func TestTroubleOfTheServerIsAnErrorAndNoVerdict(t *testing.T) {
	for _, code := range []int{401, 403, 429, 500, 502, 503} {
		fake := elastictest.New(t)
		e := server{url: fake.URL(), t: t}.opened("trouble", nil)
		fake.Fail(func(r *http.Request) (int, bool) {
			if strings.Contains(r.URL.Path, "_bulk") {
				return code, false
			}
			return 0, false
		})
		if verdicts, err := e.Export(t.Context(), documents("a")); err == nil {
			t.Errorf("%d gave verdicts %v", code, verdicts)
		}
	}
}

func TestACutAnswerIsMadeUpForByAsking(t *testing.T) {
	fake := elastictest.New(t)
	e := server{url: fake.URL(), t: t}.opened("cut", nil)
	fake.Fail(func(r *http.Request) (int, bool) {
		return map[bool]int{true: 502}[strings.Contains(r.URL.Path, "_bulk")], true
	})
	all := documents("a")
	if _, err := e.Export(t.Context(), all); err == nil {
		t.Fatal("the answer was not cut")
	}
	fake.Fail(nil)
	all[0].Uncertain = true
	same(t, "asked again", []string{"repeated"}, exported(t, e, all))
}

func TestSettingsThatCannotBe(t *testing.T) {
	tests := map[string]string{
		"addresses: []":                                       "addresses",
		"addresses: [ftp://x]":                                "addresses[0]",
		"addresses: ['http://u:p@x']":                         "username and password",
		"{addresses: ['http://x'], namespace: A-b}":           "namespace",
		"{addresses: ['http://x'], api_key: k, username: u}":  "api_key",
		"{addresses: ['http://x'], username: u}":              "password",
		"{addresses: ['http://x'], max_request_bytes: 1}":     "max_request_bytes",
		"{addresses: ['http://x'], timeout: 1ms}":             "timeout",
		"{addresses: ['http://x'], retention: -1h}":           "retention",
		"{addresses: ['http://x'], rollover_bytes: 1}":        "rollover_bytes",
		"{addresses: ['http://x'], rollover_age: 1m}":         "rollover_age",
		"{addresses: ['http://x'], password: '${env:NOPE_}'}": "",
	}
	for text, want := range tests {
		config := Defaults()
		err := conf.Decode("test", []byte(text), &config)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", text, err, want)
		}
	}
}

func TestCredentialsAreSentAndReadAnew(t *testing.T) {
	fake := elastictest.New(t)
	file := filepath.Join(t.TempDir(), "key")
	var got []string
	fake.Fail(func(r *http.Request) (int, bool) {
		got = append(got, r.Header.Get("Authorization"))
		return 0, false
	})
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	e := server{url: fake.URL(), t: t}.opened("keys", func(c *Config) { c.APIKey = notify.Secret("${file:" + file + "}") })
	exported(t, e, documents("a"))
	write("two")
	exported(t, e, documents("b"))
	same(t, "headers", []string{"ApiKey one", "ApiKey one", "ApiKey one", "ApiKey two"}, got)
	config := Defaults()
	config.CAFile = filepath.Join(t.TempDir(), "none.pem")
	if _, err := New(config, export.Deps{Clock: time.Now}); err == nil {
		t.Error("certificates that are not there were taken")
	}
}
