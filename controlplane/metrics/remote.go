package metrics

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/prometheus/client_golang/exp/api/remote"
	"github.com/prometheus/client_golang/prometheus"
	configutil "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	promremote "github.com/prometheus/prometheus/storage/remote"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/vigil-ml/vigil/controlplane/metrics/forward"
	"github.com/vigil-ml/vigil/internal/life"
)

const (
	// flushDeadline is how long what waits may take to be sent at the end.
	flushDeadline = 5 * time.Second
	writeTimeout  = 30 * time.Second
	writeShards   = 10
)

// RemoteWriteConfig is one store that samples are sent to as well.
type RemoteWriteConfig struct {
	// Name is what its metrics call it.
	Name string `yaml:"name"`
	// URL of its endpoint for remote write.
	URL string `yaml:"url"`
	// Version of the protocol: 1 or 2.
	Version int `yaml:"version"`
	// BearerTokenFile has the token that is sent, read anew for each use; empty
	// sends none.
	BearerTokenFile string `yaml:"bearer_token_file"`
	// Username and PasswordFile are for basic authentication.
	Username     string `yaml:"username"`
	PasswordFile string `yaml:"password_file"`
	// CAFile has the certificates that the store's is signed by, in PEM; empty
	// means those that the machine trusts.
	CAFile string `yaml:"ca_file"`
	// Headers are sent as they are.
	Headers map[string]string `yaml:"headers"`
	// Timeout bounds one request; 0 means 30s.
	Timeout time.Duration `yaml:"timeout"`
	// MaxShards is how many requests may be under way; 0 means 10.
	MaxShards int `yaml:"max_shards"`
}

// Check reports values that cannot be.
func (c RemoteWriteConfig) Check(report func(key, format string, args ...any)) {
	if !regexp.MustCompile(`^[a-zA-Z0-9_-]{1,63}$`).MatchString(c.Name) {
		report("name", "is %q; want 1 to 63 letters, digits, - and _", c.Name)
	}
	if wrong := httpURL(c.URL); wrong != "" {
		report("url", "%s", wrong)
	}
	if c.Version < 0 || c.Version > 2 {
		report("version", "is %d; want 1 or 2", c.Version)
	}
	if c.BearerTokenFile != "" && c.Username != "" {
		report("username", "stands beside bearer_token_file; keep one of the two")
	}
	if c.Timeout < 0 || c.MaxShards < 0 {
		report("timeout", "and max_shards are 0 or more")
	}
}

// httpURL says what is wrong with a URL; "" when nothing is.
func httpURL(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return "is not an http or https URL"
	}
	if u.User != nil {
		return "has a password in it; use a file"
	}
	return ""
}

// client makes what speaks to the store.
func (c RemoteWriteConfig) client() (promremote.WriteClient, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("read URL of remote write %s: %w", c.Name, err)
	}
	out := promremote.ClientConfig{
		URL: &configutil.URL{URL: u}, Headers: c.Headers, Timeout: model.Duration(cmp.Or(c.Timeout, writeTimeout)),
		HTTPClientConfig: configutil.DefaultHTTPClientConfig, RetryOnRateLimit: true, WriteProtoMsg: remote.WriteV1MessageType,
	}
	if c.Version == 2 {
		out.WriteProtoMsg = remote.WriteV2MessageType
	}
	out.HTTPClientConfig.TLSConfig.CAFile = c.CAFile
	switch {
	case c.BearerTokenFile != "":
		out.HTTPClientConfig.Authorization = &configutil.Authorization{Type: "Bearer", CredentialsFile: c.BearerTokenFile}
	case c.Username != "":
		out.HTTPClientConfig.BasicAuth = &configutil.BasicAuth{Username: c.Username, PasswordFile: c.PasswordFile}
	}
	made, err := promremote.NewWriteClient(c.Name, &out)
	if err != nil {
		return nil, fmt.Errorf("set up remote write %s: %w", c.Name, err)
	}
	if c, ok := made.(*promremote.Client); ok {
		c.Client.Transport = patient{c.Client.Transport}
	}
	return made, nil
}

// patient has what can be mended outside be tried again: rights, tokens and
// addresses. The client would give up the samples.
type patient struct{ http.RoundTripper }

// RoundTrip has such an answer count as one of a server in trouble; its text
// stays.
func (p patient) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := p.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	switch response.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusProxyAuthRequired, http.StatusRequestTimeout:
		response.StatusCode = http.StatusServiceUnavailable
	}
	return response, nil
}

// senders send to all stores.
type senders struct {
	all   []*forward.Sender
	group *life.Group
}

// Notify says that something was written to the TSDB's log.
func (s *senders) Notify() {
	for _, one := range s.all {
		one.Notify()
	}
}

// Close gives what is in the log some time to be sent, and ends. What is left is
// sent after the next start.
func (s *senders) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), flushDeadline)
	defer cancel()
	for _, one := range s.all {
		one.Drain(ctx)
	}
	s.group.Stop()
	return s.group.Wait()
}

// sending makes what follows the TSDB's log and sends it on; nil when there is
// nowhere to send to.
func sending(c Config, of *tsdb.DB, log *slog.Logger, reg prometheus.Registerer) (*senders, error) {
	if len(c.RemoteWrite) == 0 {
		return nil, nil
	}
	out, seen := &senders{group: life.NewGroup(context.Background())}, forward.NewMetrics(reg)
	for _, r := range c.RemoteWrite {
		client, err := r.client()
		if err != nil {
			return nil, err
		}
		one, err := forward.New(forward.Settings{
			Name: r.Name, Version: cmp.Or(r.Version, 1), External: labels.FromMap(c.ExternalLabels), Shards: cmp.Or(r.MaxShards, writeShards), Late: c.OutOfOrderWindow,
		}, forward.Deps{Dir: c.Dir, Client: client, Samples: of, NewestMS: newest(of), Metrics: seen, Log: log})
		if err != nil {
			return nil, fmt.Errorf("set up remote write %s: %w", r.Name, err)
		}
		out.all = append(out.all, one)
	}
	for _, one := range out.all {
		out.group.Go("remote write", one.Run)
	}
	return out, nil
}

// newest gives the time of a TSDB's newest sample; 0 when it has none.
func newest(of *tsdb.DB) int64 {
	at := max(of.Head().MaxTime(), 0)
	for _, block := range of.Blocks() {
		at = max(at, block.MaxTime())
	}
	return at
}

// QueryProxyConfig is a store that queries go to instead of the embedded one.
type QueryProxyConfig struct {
	// URL is what stands before /api/v1; empty answers queries here.
	URL string `yaml:"url"`
	// BearerTokenFile has the token that is sent, read anew for each query.
	BearerTokenFile string `yaml:"bearer_token_file"`
	// Headers are sent as they are, for instance X-Scope-OrgID.
	Headers map[string]string `yaml:"headers"`
}

// Check reports a URL that cannot be.
func (c QueryProxyConfig) Check(report func(key, format string, args ...any)) {
	if c.URL == "" {
		return
	}
	if wrong := httpURL(c.URL); wrong != "" {
		report("url", "%s", wrong)
	}
}

// proxy hands queries to the other store. Who asked, and with which credentials,
// stays here.
func proxy(c QueryProxyConfig, log *slog.Logger) (http.Handler, error) {
	target, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("read URL of the store for queries: %w", err)
	}
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Header.Del("Authorization")
			r.Out.Header.Del("Cookie")
			for name, value := range c.Headers {
				r.Out.Header.Set(name, value)
			}
			if c.BearerTokenFile == "" {
				return
			}
			token, err := os.ReadFile(c.BearerTokenFile)
			if err != nil {
				log.Error("query goes on without a token", "error", err)
				return
			}
			r.Out.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			log.Warn("store for queries does not answer", "error", err)
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadGateway)
			_, _ = fmt.Fprintf(w, `{"status":"error","errorType":"unavailable","error":%q}`, "the store for queries does not answer")
		},
	}, nil
}
