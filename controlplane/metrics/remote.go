package metrics

import (
	"errors"
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
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	promremote "github.com/prometheus/prometheus/storage/remote"
)

// flushDeadline is how long what waits may take to be sent at the end.
const flushDeadline = 5 * time.Second

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

// prometheus gives the settings as Prometheus' own.
func (c RemoteWriteConfig) prometheus() (*config.RemoteWriteConfig, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("read URL of remote write %s: %w", c.Name, err)
	}
	out := config.DefaultRemoteWriteConfig
	out.Name, out.URL, out.Headers = c.Name, &configutil.URL{URL: u}, c.Headers
	out.QueueConfig.BatchSendDeadline = model.Duration(time.Second)
	out.QueueConfig.MaxShards = 10
	if c.MaxShards > 0 {
		out.QueueConfig.MaxShards = c.MaxShards
	}
	out.MetadataConfig.Send = false
	if c.Version == 2 {
		out.ProtobufMessage = remote.WriteV2MessageType
	}
	if c.Timeout > 0 {
		out.RemoteTimeout = model.Duration(c.Timeout)
	}
	out.HTTPClientConfig.TLSConfig.CAFile = c.CAFile
	switch {
	case c.BearerTokenFile != "":
		out.HTTPClientConfig.Authorization = &configutil.Authorization{Type: "Bearer", CredentialsFile: c.BearerTokenFile}
	case c.Username != "":
		out.HTTPClientConfig.BasicAuth = &configutil.BasicAuth{Username: c.Username, PasswordFile: c.PasswordFile}
	}
	return &out, nil
}

// sending makes what follows the TSDB's log and sends it on; nil when there is
// nowhere to send to.
func sending(c Config, log *slog.Logger, reg prometheus.Registerer) (*promremote.WriteStorage, error) {
	if len(c.RemoteWrite) == 0 {
		return nil, nil
	}
	var all config.Config
	for _, r := range c.RemoteWrite {
		one, err := r.prometheus()
		if err != nil {
			return nil, err
		}
		all.RemoteWriteConfigs = append(all.RemoteWriteConfigs, one)
	}
	all.GlobalConfig.ExternalLabels = labels.FromMap(c.ExternalLabels)
	out := promremote.NewWriteStorage(log, reg, c.Dir, flushDeadline, nil, false)
	if err := out.ApplyConfig(&all); err != nil {
		return nil, errors.Join(fmt.Errorf("set up remote write: %w", err), out.Close())
	}
	return out, nil
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
