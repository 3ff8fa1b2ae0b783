// Package email tells people by mail: text and HTML, with a small chart of the
// run's loss where there is one.
//
// All mail of one incident is one thread: it refers to the same root, whose id
// is made of the incident's key, and has the same subject. A delivery that
// comes twice has the same Message-ID, by which mail systems drop the second.
package email

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/mail"
	"strings"
	"unicode"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/internal/plug"
)

// Kind is the notifier's entry in the catalogue.
var Kind = plug.Of[notify.Notifier, notify.Deps]("email", Config{Port: 587, TLS: tlsStart}, New)

// What the connection is protected by.
const (
	tlsStart    = "starttls" // the connection turns to TLS, or nothing is sent
	tlsImplicit = "tls"      // TLS from the first byte, port 465
	tlsNone     = "none"     // for a relay on this machine
)

// Config is what users write.
type Config struct {
	// Host and Port of the SMTP server.
	Host string `yaml:"host"`
	Port int    `yaml:"port"`
	// TLS is starttls, tls or none. A password is never sent without TLS.
	TLS string `yaml:"tls"`
	// CAFile has the certificates, PEM, that the server's is checked with; empty
	// means those of the system.
	CAFile string `yaml:"ca_file"`
	// Username and Password log in, by the best way that the server offers;
	// without a username nobody logs in.
	Username string        `yaml:"username"`
	Password notify.Secret `yaml:"password"`
	// From is the sender, for instance "Vigil <vigil@example.org>".
	From string `yaml:"from"`
	// To are the recipients.
	To []string `yaml:"to"`
	// Hello is the name that the server is greeted with; empty means this
	// machine's.
	Hello string `yaml:"hello"`
	// Subject and Text are templates in the place of the subject and of the
	// sentence that the mail begins with; empty means Vigil's own. A subject that
	// changes while the incident lives breaks its thread in some programs.
	Subject string `yaml:"subject"`
	Text    string `yaml:"text"`
}

// Check reports what is missing and addresses that are none.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.Host == "" {
		report("host", "is missing; want the SMTP server's")
	}
	if c.Port < 1 || c.Port > 65535 {
		report("port", "is %d; want 1 to 65535", c.Port)
	}
	switch c.TLS {
	case tlsStart, tlsImplicit:
	case tlsNone:
		if c.Username != "" {
			report("tls", "is none, and a password is not sent without TLS; want starttls or tls")
		}
	default:
		report("tls", "is %q; want starttls, tls or none", c.TLS)
	}
	if c.Username != "" {
		notify.CheckSecret(report, "password", c.Password)
	}
	if _, err := mail.ParseAddress(c.From); err != nil {
		report("from", "is not a mail address such as vigil@example.org")
	}
	if len(c.To) == 0 {
		report("to", "is missing; want a list of mail addresses")
	}
	for _, to := range c.To {
		if _, err := mail.ParseAddress(to); err != nil {
			report("to", "%q is not a mail address", to)
		}
	}
}

// New makes the notifier.
func New(config Config, deps notify.Deps) (notify.Notifier, error) {
	if err := deps.CheckTemplates(map[string]string{"subject": config.Subject, "text": config.Text}); err != nil {
		return nil, err
	}
	return &notifier{config: config, deps: deps}, nil
}

type notifier struct {
	config Config
	deps   notify.Deps
}

// Limit is one mail a second: more than that is spam to many servers.
func (n *notifier) Limit() notify.Limit { return notify.Limit{PerSecond: 1, Burst: 20} }

// Notify sends one mail to all recipients.
func (n *notifier) Notify(ctx context.Context, delivery alert.Delivery) error {
	message, err := n.compose(ctx, delivery)
	if err != nil {
		return notify.Permanent(err)
	}
	return n.send(ctx, message)
}

// subject is the same for all mail of an incident, since some programs make
// threads by it.
func subject(d alert.Delivery) string {
	s := "[Vigil] " + d.Kind()
	if run := d.Incident.GetRunId(); run != "" {
		s += " in run " + run
	}
	return oneLine(s, 200)
}

// identifier is a message's id for a text, which may be anything.
func (n *notifier) identifier(text string) string {
	sum := sha256.Sum256([]byte(text))
	domain := "vigil.invalid"
	if from, err := mail.ParseAddress(n.config.From); err == nil {
		domain = from.Address[strings.LastIndexByte(from.Address, '@')+1:]
	}
	return hex.EncodeToString(sum[:16]) + "@" + domain
}

// oneLine makes a text fit for a header: what could end the line becomes a
// space.
func oneLine(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(s, "?"))
	s = strings.Join(strings.Fields(s), " ")
	if runes := []rune(s); len(runes) > limit {
		return string(runes[:limit-3]) + "..."
	}
	return s
}
