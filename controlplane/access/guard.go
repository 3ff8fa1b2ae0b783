package access

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/controlplane/audit"
	"github.com/vigil-ml/vigil/controlplane/audit/trail"
	"github.com/vigil-ml/vigil/controlplane/people"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/metric"
)

// Config is what users say about who comes in.
type Config struct {
	// LocalDir is where the control plane leaves the secrets for callers of its
	// own user on this machine; empty is the user's state directory.
	LocalDir string `yaml:"local_dir"`
	// Rate is how many calls a second one caller may make, and Burst how many at
	// once; more are refused. >= 1.
	Rate  float64 `yaml:"rate"`
	Burst int     `yaml:"burst"`
	// MaxRequestBytes is how large a caller's request may be; >= 1024.
	MaxRequestBytes int `yaml:"max_request_bytes"`
	// FailedLogins is how many wrong credentials an address may show at once;
	// every LoginRefill one more. Then it is not listened to. >= 1.
	FailedLogins int           `yaml:"failed_logins"`
	LoginRefill  time.Duration `yaml:"login_refill"`
	// OIDC is where people sign in; empty is nowhere.
	OIDC OIDCConfig `yaml:"oidc"`
}

// Defaults lets a person or a program do what one can do.
func Defaults() Config {
	return Config{Rate: 2000, Burst: 4000, MaxRequestBytes: 4 << 20, FailedLogins: 10, LoginRefill: 10 * time.Second}
}

// Check reports bounds that would keep everyone out.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.Rate < 1 {
		report("rate", "is %v; want at least 1", c.Rate)
	}
	if c.Burst < 1 {
		report("burst", "is %d; want at least 1", c.Burst)
	}
	if c.MaxRequestBytes < 1024 {
		report("max_request_bytes", "is %d; want at least 1024", c.MaxRequestBytes)
	}
	if c.FailedLogins < 1 {
		report("failed_logins", "is %d; want at least 1", c.FailedLogins)
	}
	if c.LoginRefill <= 0 {
		report("login_refill", "is %v; want more than 0", c.LoginRefill)
	}
}

// Credential is what a caller brings.
type Credential struct {
	Bearer string     // the secret; empty when there is none
	Source netip.Addr // where the call comes from
}

// Authenticator makes an identity of a credential. One that is not its sort
// gives nil and no error; a wrong one gives [fault.Unauthenticated]. It is safe
// for concurrent use.
type Authenticator interface {
	Authenticate(ctx context.Context, c Credential) (*Identity, error)
}

// Deps is what code injects.
type Deps struct {
	Store          *store.Store
	Audit          *audit.Log
	Authenticators []Authenticator
	People         People // nil: nobody keeps who people are
	Log            *slog.Logger
	Metrics        prometheus.Registerer
	Clock          func() time.Time
}

// Guard lets callers in. It is safe for concurrent use.
type Guard struct {
	config Config
	deps   Deps
	rules  map[string]Rule
	routes []Route
	calls  *limits // by caller
	logins *limits // failed ones, by address
	seen   *sessions
	denied *prometheus.CounterVec
	named  namedFields
}

// NewGuard makes a guard.
func NewGuard(config Config, deps Deps) *Guard {
	g := &Guard{
		config: config, deps: deps, rules: map[string]Rule{}, routes: Routes(),
		calls:  newLimits(config.Rate, config.Burst, deps.Clock),
		logins: newLimits(1/config.LoginRefill.Seconds(), config.FailedLogins, deps.Clock),
		seen:   newSessions(deps.Clock),
		denied: metric.NewCounter(deps.Metrics, metric.ControlDenied),
	}
	for _, rule := range Rules() {
		g.rules[rule.Method] = rule
	}
	return g
}

// Reasons for which callers are refused, as the metric has them.
const (
	reasonUnknown   = "unknown"   // no credential, or a wrong one
	reasonRole      = "role"      // a role that does not allow it
	reasonScope     = "scope"     // a project that the caller may not see
	reasonRate      = "rate"      // too many calls
	reasonSize      = "size"      // too large a request
	reasonThrottled = "throttled" // too many wrong credentials
)

const hintToken = "agentctl brings the token of this user's own control plane by itself; else set VIGIL_TOKEN or --token-file, " +
	"or send the header Authorization: Bearer TOKEN (agentctl access token shows it)"

// identify finds out who calls.
func (g *Guard) identify(ctx context.Context, c Credential) (*Identity, error) {
	source := c.Source.String()
	if err := g.present(c); err != nil {
		return nil, err
	}
	i, err := g.recognize(ctx, c)
	if fault.Is(err, fault.Unauthenticated) {
		g.logins.take(source)
	}
	if err != nil {
		return nil, err
	}
	i.Source = source
	return i, g.signIn(ctx, i)
}

// present tells whether there is a credential, from an address that is listened to.
func (g *Guard) present(c Credential) error {
	if c.Bearer == "" {
		return fault.WithHint(fault.New(fault.Unauthenticated, "the call says not who makes it"), hintToken)
	}
	if source := c.Source.String(); !g.logins.would(source) {
		g.denied.WithLabelValues(reasonThrottled).Inc()
		return throttled(source)
	}
	return nil
}

func throttled(source string) error {
	return fault.WithHint(fault.New(fault.Exhausted, "too many wrong credentials came from %s", source), "wait a minute, and look at what is sent")
}

// recognize asks the authenticators who it is.
func (g *Guard) recognize(ctx context.Context, c Credential) (*Identity, error) {
	for _, a := range g.deps.Authenticators {
		if i, err := a.Authenticate(ctx, c); i != nil || err != nil {
			return i, err
		}
	}
	return nil, fault.WithHint(fault.New(fault.Unauthenticated, "the credential is of no sort that is known here"), hintToken)
}

// signIn records that somebody came in, with the first call of what they come in
// with. Where it cannot be recorded they do not.
func (g *Guard) signIn(ctx context.Context, i *Identity) error {
	if i.Session == "" || !g.seen.first(i.Session, i.Expires) {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	var err error
	if g.deps.People != nil && i.Kind == KindUser {
		err = g.deps.People.Know(ctx, i.Subject(), people.Profile{Name: i.Name, Email: i.Email, Login: i.Login})
	}
	if err == nil {
		err = g.deps.Audit.Write(ctx, trail.Record{
			Class: trail.SignIn, Actor: i.Actor(), Action: "sign-in", Outcome: "ok", Request: requestID(), Personal: personalOf(i, i.Source),
		})
	}
	if err != nil {
		g.seen.forget(i.Session)
	}
	return err
}

// call is one call that was let in.
type call struct {
	guard    *Guard
	identity *Identity
	rule     Rule
	record   trail.Record
	written  func() bool
	signed   bool // the handler finds out whether the caller is who he says
}

// enter lets a call in, or says why not. The context that it gives is the
// call's: somebody calls in it, and its first change carries the record.
func (g *Guard) enter(ctx context.Context, rule Rule, c Credential, in proto.Message) (context.Context, *call, error) {
	record := recordOf(rule)
	if in != nil {
		record.Object, record.Digest = objectsOf(in), digestOf(in)
	}
	identity, err := g.identify(ctx, c)
	if err == nil {
		err = g.admit(ctx, rule, identity, in)
	}
	record.Actor, record.Personal = identity.Actor(), personalOf(identity, c.Source.String())
	if err != nil {
		return ctx, nil, g.refuse(ctx, record, c, err)
	}
	speakFor(in, identity)
	out := &call{guard: g, identity: identity, rule: rule, record: record}
	ctx, err = out.begin(With(ctx, identity))
	return ctx, out, err
}

// recordOf begins the record of a call.
func recordOf(rule Rule) trail.Record {
	return trail.Record{Class: rule.Class, Action: strings.TrimPrefix(rule.Method, "/"), Outcome: "ok", Request: requestID()}
}

// admit tells whether somebody who is known may do it.
func (g *Guard) admit(ctx context.Context, rule Rule, i *Identity, in proto.Message) error {
	if !g.calls.take(i.Subject()) {
		g.denied.WithLabelValues(reasonRate).Inc()
		return fault.WithRetry(fault.New(fault.Exhausted, "%s makes more than %v calls a second", i.Subject(), g.config.Rate), time.Second)
	}
	if in != nil {
		if size := proto.Size(in); size > g.config.MaxRequestBytes {
			g.denied.WithLabelValues(reasonSize).Inc()
			return fault.New(fault.Exhausted, "the request has %d bytes; at most %d", size, g.config.MaxRequestBytes)
		}
	}
	if !rule.Allows(i) {
		g.denied.WithLabelValues(reasonRole).Inc()
		return fault.WithHint(fault.New(fault.Denied, "%s may not %s", i.Subject(), strings.TrimPrefix(rule.Method, "/")), needs(rule, i))
	}
	err := g.inScope(ctx, rule, i, in)
	if fault.Is(err, fault.Denied) {
		g.denied.WithLabelValues(reasonScope).Inc()
	}
	return err
}

func needs(rule Rule, i *Identity) string {
	if i.Can(rule.Role) {
		return "it is not for callers who may see some projects only"
	}
	return "it takes the role " + RoleName(rule.Role)
}

// refuse records that somebody was refused, and gives why. A record is written
// of who is known and may not, and of wrong credentials as long as they are few:
// strangers must not be able to fill the log.
func (g *Guard) refuse(ctx context.Context, record trail.Record, c Credential, why error) error {
	switch fault.KindOf(why) {
	case fault.Unauthenticated:
		g.denied.WithLabelValues(reasonUnknown).Inc()
		if c.Bearer == "" {
			return why
		}
		record.Class = trail.SignIn
	case fault.Denied:
		record.Class = trail.Denied
	default:
		return why
	}
	record.Outcome = fault.KindOf(why).String()
	if err := g.deps.Audit.Write(context.WithoutCancel(ctx), record); err != nil {
		g.deps.Log.Error("a refused call is not in the audit log", "method", record.Action, "error", err)
	}
	return why
}

// begin has the call recorded: before it is done where its effects lie outside
// the store, else with its first change.
func (c *call) begin(ctx context.Context) (context.Context, error) {
	log := c.guard.deps.Audit
	if !log.Records(c.rule.Class) {
		return ctx, nil
	}
	if c.rule.Outside {
		begun := c.record
		begun.Outcome = "begun"
		return ctx, log.Write(ctx, begun)
	}
	ctx, c.written = log.Ride(ctx, c.record)
	return ctx, nil
}

// leave records how the call ended, where that is not recorded yet. What it
// gives is what the caller gets. The context must be the one before enter's.
func (c *call) leave(ctx context.Context, err error) error {
	log := c.guard.deps.Audit
	if !log.Records(c.rule.Class) || (err == nil && (c.rule.Outside || c.written())) {
		return err
	}
	if err != nil && c.signed {
		if fault.Is(err, fault.Unauthenticated) {
			c.guard.logins.take(c.identity.Source)
		}
		return err // nobody came in
	}
	record := c.record
	if err != nil {
		record.Outcome = fault.KindOf(err).String()
	}
	// The caller may be gone by now; that it was done is recorded all the same.
	if writeErr := log.Write(context.WithoutCancel(ctx), record); writeErr != nil {
		return errors.Join(err, writeErr)
	}
	return err
}
