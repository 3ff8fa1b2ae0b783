// Package redact takes secrets and personal data out of what is logged. Every
// program's logger goes through it, and so does what a training process prints
// where its configuration asks for that.
package redact

import (
	"fmt"
	"regexp"
)

// Config says what is taken out.
type Config struct {
	Secrets   bool     // passwords, tokens, keys
	Mail      bool     // e-mail addresses
	Addresses bool     // IP addresses
	Patterns  []string // regular expressions of what else; RE2 syntax
}

// Redactor takes what must not be kept out of texts. The zero value takes
// nothing. It is safe for concurrent use.
type Redactor struct {
	rules []rule
	keys  bool // attributes with the names of secrets lose their values
}

type rule struct {
	pattern *regexp.Regexp
	with    []byte
}

// marks stand where something was taken out.
const (
	markSecret  = "[secret]"
	markMail    = "[e-mail]"
	markAddress = "[address]"
	markOther   = "[redacted]"
)

// New makes a redactor. It fails when a pattern is no regular expression.
func New(config Config) (Redactor, error) {
	r := Redactor{keys: config.Secrets}
	if config.Secrets {
		for _, s := range secrets() {
			r.add(s.pattern, s.with)
		}
	}
	if config.Mail {
		r.add(`[\w.+-]+@[\w-]+(\.[\w-]+)+`, markMail)
	}
	if config.Addresses {
		r.add(`\b(?:\d{1,3}\.){3}\d{1,3}\b`, markAddress)
		r.add(`\b(?:[0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}\b`, markAddress)
	}
	for i, pattern := range config.Patterns {
		compiled, err := regexp.Compile(pattern)
		if err != nil {
			return Redactor{}, fmt.Errorf("pattern %d: %w", i+1, err)
		}
		r.rules = append(r.rules, rule{compiled, []byte(markOther)})
	}
	return r, nil
}

func (r *Redactor) add(pattern, with string) {
	r.rules = append(r.rules, rule{regexp.MustCompile(pattern), []byte(with)})
}

// Active tells whether there is anything to take out.
func (r Redactor) Active() bool { return len(r.rules) > 0 }

// Bytes gives a text without what must not be kept; the same slice when there is
// nothing of that in it.
func (r Redactor) Bytes(text []byte) []byte {
	for _, rule := range r.rules {
		if rule.pattern.Match(text) {
			text = rule.pattern.ReplaceAll(text, rule.with)
		}
	}
	return text
}

// Text is Bytes for a string.
func (r Redactor) Text(text string) string {
	for _, rule := range r.rules {
		if rule.pattern.MatchString(text) {
			text = rule.pattern.ReplaceAllString(text, string(rule.with))
		}
	}
	return text
}
