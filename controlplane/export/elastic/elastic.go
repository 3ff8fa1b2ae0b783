// Package elastic exports to Elasticsearch 8: one data stream for each stream of
// documents, named logs-vigil.STREAM-NAMESPACE, with an index template and a
// lifecycle policy that it sets up itself.
//
// Documents are created under ids of their own, so that one that comes again is
// known as there already. An id is known in the data stream's newest index only:
// before a document is sent whose earlier try had no answer, the data stream is
// asked whether it has it, whichever index that is in.
//
// A server that does not say that it is Elasticsearch, such as OpenSearch, is
// refused unless any_product is set.
package elastic

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"sync"
	"time"

	"github.com/elastic/elastic-transport-go/v8/elastictransport"

	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/controlplane/export"
	"github.com/vigil-ml/vigil/internal/pki"
	"github.com/vigil-ml/vigil/internal/plug"
)

// Kind is the exporter's entry in the catalogue.
var Kind = plug.Of[export.Exporter, export.Deps]("elastic", Defaults(), New)

// Config is what users write.
type Config struct {
	// Addresses are the nodes' URLs; they are taken in turn.
	Addresses []string `yaml:"addresses"`
	// APIKey is id:key in Base64, as Kibana shows it; or Username and Password.
	APIKey   notify.Secret `yaml:"api_key"`
	Username string        `yaml:"username"`
	Password notify.Secret `yaml:"password"`
	// CAFile has the certificates, in PEM, that the nodes' are signed by; empty
	// means those that the machine trusts.
	CAFile string `yaml:"ca_file"`
	// Namespace ends the data streams' names.
	Namespace string `yaml:"namespace"`
	// SetUp has the template and the policy written at the start; an operator
	// who keeps them elsewhere turns it off.
	SetUp bool `yaml:"set_up"`
	// Retention is how long documents are kept, by the lifecycle policy; 0 keeps
	// them for ever.
	Retention time.Duration `yaml:"retention"`
	// RolloverAge and RolloverBytes are when the policy begins a new index.
	RolloverAge   time.Duration `yaml:"rollover_age"`
	RolloverBytes int64         `yaml:"rollover_bytes"`
	// Replicas of each index; negative leaves it to the server.
	Replicas int `yaml:"replicas"`
	// MaxRequestBytes is the largest request, before compression; a server that
	// takes less has it split further.
	MaxRequestBytes int `yaml:"max_request_bytes"`
	// Compress sends requests with gzip.
	Compress bool `yaml:"compress"`
	// Timeout bounds one request.
	Timeout time.Duration `yaml:"timeout"`
	// AnyProduct also takes servers that do not say that they are Elasticsearch.
	AnyProduct bool `yaml:"any_product"`
}

// Defaults keeps documents for 90 days, in indices of a month or 50 GB.
func Defaults() Config {
	return Config{
		Namespace: "default", SetUp: true, Retention: 90 * 24 * time.Hour,
		RolloverAge: 30 * 24 * time.Hour, RolloverBytes: 50 << 30, Replicas: -1,
		MaxRequestBytes: 5 << 20, Compress: true, Timeout: 30 * time.Second,
	}
}

// Check reports values that are out of range.
func (c Config) Check(report func(key, format string, args ...any)) {
	if len(c.Addresses) == 0 {
		report("addresses", "is empty; want http or https URLs of Elasticsearch nodes")
	}
	for i, address := range c.Addresses {
		if u, err := url.Parse(address); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			report(fmt.Sprintf("addresses[%d]", i), "is not an http or https URL")
		} else if u.User != nil {
			report(fmt.Sprintf("addresses[%d]", i), "has a password in it; use username and password")
		}
	}
	switch {
	case c.APIKey != "" && c.Username != "":
		report("api_key", "stands beside username; keep one of the two")
	case c.APIKey != "":
		notify.CheckSecret(report, "api_key", c.APIKey)
	case c.Username != "":
		notify.CheckSecret(report, "password", c.Password)
	}
	if !regexp.MustCompile(`^[a-z0-9_.]{1,100}$`).MatchString(c.Namespace) {
		report("namespace", "is %q; want 1 to 100 of a-z, 0-9, _ and .", c.Namespace)
	}
	if c.Retention < 0 {
		report("retention", "is %s; want 0 or more", c.Retention)
	}
	if c.RolloverAge < time.Hour {
		report("rollover_age", "is %s; want at least 1h", c.RolloverAge)
	}
	if c.RolloverBytes < 1<<20 {
		report("rollover_bytes", "is %d; want at least %d", c.RolloverBytes, 1<<20)
	}
	if c.MaxRequestBytes < 64<<10 {
		report("max_request_bytes", "is %d; want at least %d", c.MaxRequestBytes, 64<<10)
	}
	if c.Timeout < time.Second {
		report("timeout", "is %s; want at least 1s", c.Timeout)
	}
}

// exporter is the one of a configuration.
type exporter struct {
	config Config
	deps   export.Deps
	client *elastictransport.Client
	http   *http.Transport

	mu    sync.Mutex
	ready bool // template and policy are there
}

// New makes the exporter; it sends nothing yet. It fails when the certificates
// cannot be read.
func New(config Config, deps export.Deps) (export.Exporter, error) {
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 4, IdleConnTimeout: 90 * time.Second, ForceAttemptHTTP2: true,
	}
	if config.CAFile != "" {
		pool, err := pki.PoolOf(config.CAFile)
		if err != nil {
			return nil, fmt.Errorf("open Elasticsearch exporter: %w", err)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	var urls []*url.URL
	for _, address := range config.Addresses {
		u, err := url.Parse(address)
		if err != nil {
			return nil, fmt.Errorf("read address of Elasticsearch: %w", err)
		}
		urls = append(urls, u)
	}
	options := []elastictransport.Option{
		elastictransport.WithUserAgent("vigil/" + deps.Version), elastictransport.WithURLs(urls...),
		elastictransport.WithTransport(transport), elastictransport.WithDisableRetry(),
	}
	if config.Compress {
		options = append(options, elastictransport.WithCompression())
	}
	client, err := elastictransport.NewClient(options...)
	if err != nil {
		return nil, fmt.Errorf("make client of Elasticsearch: %w", err)
	}
	return &exporter{config: config, deps: deps, client: client, http: transport}, nil
}

// Streams are all but those that only OpenTelemetry has words for.
func (e *exporter) Streams() []string {
	return []string{export.StreamEvents, export.StreamFindings, export.StreamIncidents, export.StreamAudit, export.StreamLogs}
}

// Close lets go of idle connections.
func (e *exporter) Close() error {
	e.http.CloseIdleConnections()
	return nil
}

// header is what proves who asks; secrets are looked up for each request.
func (e *exporter) header() (http.Header, error) {
	h := http.Header{}
	switch {
	case e.config.APIKey != "":
		key, err := e.config.APIKey.Reveal()
		if err != nil {
			return nil, err
		}
		h.Set("Authorization", "ApiKey "+key)
	case e.config.Username != "":
		password, err := e.config.Password.Reveal()
		if err != nil {
			return nil, err
		}
		h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(e.config.Username+":"+password)))
	}
	return h, nil
}

// dataStream is where a stream's documents go.
func (e *exporter) dataStream(stream string) string {
	return "logs-vigil." + stream + "-" + e.config.Namespace
}

// Export sends documents, in requests as large as the server takes.
func (e *exporter) Export(ctx context.Context, documents []export.Document) ([]export.Verdict, error) {
	if err := e.setUp(ctx); err != nil {
		return nil, err
	}
	verdicts := make([]export.Verdict, len(documents))
	there, err := e.there(ctx, documents)
	if err != nil {
		return nil, err
	}
	var items []item
	for i, d := range documents {
		if there[place{d.Stream, idOf(d.ID)}] {
			verdicts[i].Outcome = export.Repeated
			continue
		}
		it, err := e.item(i, d)
		if err != nil {
			verdicts[i] = export.Verdict{Outcome: export.Refused, Reason: err.Error()}
			continue
		}
		items = append(items, it)
	}
	for len(items) > 0 {
		n := e.fitting(items)
		if err := e.bulk(ctx, items[:n], verdicts); err != nil {
			return nil, err
		}
		items = items[n:]
	}
	return verdicts, nil
}

var errProduct = errors.New("the server does not say that it is Elasticsearch: it is another product, a version before 7.14, or a proxy that drops X-Elastic-Product; any_product: true takes it all the same")
