package controlplane

import (
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/alerting"
	"github.com/vigil-ml/vigil/controlplane/access"
	"github.com/vigil-ml/vigil/controlplane/audit"
	"github.com/vigil-ml/vigil/controlplane/authority"
	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/detect/profile"
	"github.com/vigil-ml/vigil/controlplane/duty"
	"github.com/vigil-ml/vigil/controlplane/fleet"
	"github.com/vigil-ml/vigil/controlplane/incident"
	"github.com/vigil-ml/vigil/controlplane/ingest"
	"github.com/vigil-ml/vigil/controlplane/metrics"
	"github.com/vigil-ml/vigil/controlplane/retain"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/envelope"
	"github.com/vigil-ml/vigil/internal/localkey"
	"github.com/vigil-ml/vigil/internal/serve"
	"github.com/vigil-ml/vigil/internal/statedir"
	"github.com/vigil-ml/vigil/internal/telemetry"
)

// Config is what users write. Paths that are not absolute lie below StateDir.
type Config struct {
	// StateDir is where everything durable lies. Default: the user's state
	// directory, vigil/controlplane.
	StateDir string `yaml:"state_dir"`
	// API is for operators and machines: gRPC, JSON, PromQL, /metrics, /healthz.
	// The default is loopback only.
	API Listener `yaml:"api"`
	// Agents is for agents, who prove themselves by certificates, so that it may
	// listen beyond this machine.
	Agents AgentListener `yaml:"agents"`

	// Access is who may come in; docs/access.md.
	Access access.Config `yaml:"access"`
	// Audit is the audit log; docs/audit.md.
	Audit audit.Config `yaml:"audit"`
	// Protection is the outer key of what is kept of people; docs/personal-data.md.
	Protection envelope.Settings `yaml:"protection"`
	// Authority gives nodes their certificates; docs/access.md.
	Authority authority.Config `yaml:"authority"`

	// Replicas is about other control planes on the same PostgreSQL and the same
	// NATS cluster: docs/fleet.md.
	Replicas duty.Config  `yaml:"replicas"`
	Store    store.Config `yaml:"store"`
	// Retention is how long records are kept; docs/fleet.md.
	Retention retain.Config   `yaml:"retention"`
	Bus       bus.Config      `yaml:"bus"`
	Metrics   metrics.Config  `yaml:"metrics"`
	Ingest    ingest.Config   `yaml:"ingest"`
	Fleet     fleet.Config    `yaml:"fleet"`
	Incident  incident.Config `yaml:"incident"`
	// Detection is the settings of the detection rules, for all runs, for
	// projects and for single runs; docs/detection.md.
	Detection profile.Config  `yaml:"detection"`
	Alerting  alerting.Config `yaml:"alerting"`
	// Exports are the systems that events, findings, incidents, audit records, logs,
	// spans and metrics are handed to; docs/exports.md.
	Exports []ExportConfig `yaml:"exports"`
	// MemoryLimitBytes is how much memory the control plane aims to stay below:
	// it collects garbage harder as it comes near, and then refuses work;
	// docs/fleet.md. 0 is nine tenths of what its control group allows, and no
	// limit where that has none. The environment variable GOMEMLIMIT comes first.
	MemoryLimitBytes int64 `yaml:"memory_limit_bytes"`
	// DrainDelay is how long the control plane goes on after it was told to stop
	// while /readyz says that it goes away: what a load balancer takes to see it.
	// 0 to 5m.
	DrainDelay time.Duration `yaml:"drain_delay"`

	Log telemetry.LogConfig `yaml:"log"`
	// Trace exports spans only; it is short for an exporter of kind otlp with the
	// name "trace" and the stream traces.
	Trace telemetry.TraceConfig `yaml:"trace"`
	// MetricsInterval is how often the control plane's own metrics are read for
	// exporters that take them; 0 means 30s.
	MetricsInterval time.Duration `yaml:"metrics_interval"`
}

// Listener is where operators and machines come in.
type Listener struct {
	// Listen is host:port; port 0 takes any free one. Beyond loopback the port
	// speaks TLS, always.
	Listen string `yaml:"listen"`
	// URL is where people reach the port, for links in what they are told.
	// Default: the address that it listens on.
	URL string     `yaml:"url"`
	TLS TLSOptions `yaml:"tls"`
	// Connections is how many there may be.
	Connections Bounds `yaml:"connections"`
}

// Bounds is how many connections a port holds at a time; one more is closed at
// once.
type Bounds struct {
	// Max is of all together. At least 1.
	Max int `yaml:"max"`
	// MaxPerAddress is of one address; of IPv6 of one network of 64 bits. At least 1.
	MaxPerAddress int `yaml:"max_per_address"`
}

// Check reports bounds that let nobody in.
func (b Bounds) Check(report func(key, format string, args ...any)) {
	if b.Max < 1 {
		report("max", "is %d; want at least 1", b.Max)
	}
	if b.MaxPerAddress < 1 {
		report("max_per_address", "is %d; want at least 1", b.MaxPerAddress)
	}
}

// TLSOptions says how a port speaks TLS.
type TLSOptions struct {
	// On has the port speak TLS on loopback too.
	On bool `yaml:"on"`
	// CertFile and KeyFile are a certificate of the site's own, in PEM; it is read
	// again when it changes. Without them the control plane's authority gives one.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
	// Names are hosts that the authority's certificate is good for, besides this
	// machine's name and addresses.
	Names []string `yaml:"names"`
}

// Check reports an address that is none, and half of a certificate.
func (l Listener) Check(report func(key, format string, args ...any)) {
	if _, port, err := net.SplitHostPort(l.Listen); err != nil || port == "" {
		report("listen", "%q: want host:port, for instance 127.0.0.1:8080", l.Listen)
	}
	if (l.TLS.CertFile == "") != (l.TLS.KeyFile == "") {
		report("tls", "cert_file and key_file go together")
	}
	if u, err := url.Parse(l.URL); l.URL != "" && (err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "") {
		report("url", "%q: want for instance https://vigil.example.org", l.URL)
	}
}

// secure tells whether the port speaks TLS: beyond loopback always.
func (l Listener) secure() bool {
	return l.TLS.On || l.TLS.CertFile != "" || serve.Loopback(l.Listen) != ""
}

// external is where people reach the port, which listens on an address.
func (l Listener) external(address string) string {
	switch {
	case l.URL != "":
		return strings.TrimSuffix(l.URL, "/")
	case l.secure():
		return "https://" + address
	default:
		return "http://" + address
	}
}

// hosts is what the authority's certificate of the port is good for: the names
// that were given, this machine's name, and where the port listens.
func (l Listener) hosts(address string) []string {
	hosts := append(slices.Clone(l.TLS.Names), "localhost", "127.0.0.1", "::1")
	if name, err := os.Hostname(); err == nil && name != "" {
		hosts = append(hosts, name)
	}
	if host, _, err := net.SplitHostPort(address); err == nil && host != "" && !net.ParseIP(host).IsUnspecified() {
		return append(hosts, host)
	}
	addresses, _ := net.InterfaceAddrs() // without them the names above remain
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			hosts = append(hosts, n.IP.String())
		}
	}
	return hosts
}

// AgentListener is where agents connect.
type AgentListener struct {
	// Listen is host:port; port 0 takes any free one.
	Listen string `yaml:"listen"`
	// Connections is how many there may be.
	Connections Bounds `yaml:"connections"`
}

// Check reports an address that is none.
func (l AgentListener) Check(report func(key, format string, args ...any)) {
	if _, port, err := net.SplitHostPort(l.Listen); err != nil || port == "" {
		report("listen", "%q: want host:port, for instance 127.0.0.1:7443", l.Listen)
	}
}

// Defaults is a control plane for one machine, with nothing to install.
func Defaults() Config {
	return Config{
		StateDir:  statedir.Default("controlplane"),
		API:       Listener{Listen: "127.0.0.1:8080", Connections: Bounds{4096, 1024}},
		Agents:    AgentListener{Listen: "127.0.0.1:7443", Connections: Bounds{32768, 16384}}, // nodes may share an address behind a NAT
		Access:    access.Defaults(),
		Audit:     audit.Defaults("audit"),
		Authority: authority.Defaults("authority"),
		Replicas:  duty.Defaults(),
		Store:     store.Config{Path: "vigil.db"},
		Retention: retain.Defaults(),
		Bus:       bus.Defaults("bus"),
		Metrics:   metrics.Defaults("metrics"),
		Ingest:    ingest.Defaults(),
		Fleet:     fleet.Defaults(),
		Incident:  incident.Defaults(),
		Alerting:  alerting.Defaults(),
		Log:       telemetry.DefaultLog(),
	}
}

// Check reports a missing state directory, and nodes that would count as lost
// between two heartbeats.
func (c Config) Check(report func(key, format string, args ...any)) {
	if least := 3 * c.Ingest.HeartbeatInterval; c.Fleet.LostAfter < least {
		report("fleet.lost_after", "is %s; want at least three heartbeats (ingest.heartbeat_interval), %s", c.Fleet.LostAfter, least)
	}
	if c.MetricsInterval != 0 && c.MetricsInterval < time.Second {
		report("metrics_interval", "is %s; want 0, or at least 1s", c.MetricsInterval)
	}
	if c.MemoryLimitBytes < 0 || c.MemoryLimitBytes > 0 && c.MemoryLimitBytes < leastMemoryBytes {
		report("memory_limit_bytes", "is %d; want 0, or at least %d", c.MemoryLimitBytes, leastMemoryBytes)
	}
	if c.DrainDelay < 0 || c.DrainDelay > 5*time.Minute {
		report("drain_delay", "is %s; want 0 to 5m", c.DrainDelay)
	}
	if (c.Store.URL == "") != (c.Bus.URL == "") {
		report("store.url", "and bus.url go together: control planes that share one share the other")
	}
	if c.StateDir == "" {
		report("state_dir", "is empty; name a directory")
	}
	if c.Store.URL != "" {
		c.checkShared(report)
	}
}

// checkShared reports keys of which each control plane would make its own,
// though all that share records must have the same: a node that joined at one
// would be a stranger to the others, and their audit log would have two hands.
func (c Config) checkShared(report func(key, format string, args ...any)) {
	for _, file := range []struct{ key, path string }{
		{"authority.cert_file", c.Authority.CertFile}, {"authority.key_file", c.Authority.KeyFile}, {"audit.key_file", c.Audit.KeyFile},
	} {
		if !filepath.IsAbs(file.path) {
			report(file.key, "%q lies in this control plane's own state directory; those that share store.url need the same file: name its full path", file.path)
		}
	}
}

// settle makes the state directory and puts relative paths below it.
func (c *Config) settle() error {
	if c.Access.LocalDir == "" {
		c.Access.LocalDir = localkey.Dir()
	}
	paths := []*string{&c.Store.Path, &c.Bus.Dir, &c.Metrics.Dir, &c.Audit.KeyFile, &c.Authority.CertFile, &c.Authority.KeyFile}
	c.Audit.Copies = slices.Clone(c.Audit.Copies)
	for i := range c.Audit.Copies {
		paths = append(paths, &c.Audit.Copies[i])
	}
	if err := c.exportTraces(); err != nil {
		return err
	}
	return statedir.Settle(c.StateDir, paths...)
}
