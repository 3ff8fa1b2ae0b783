package output

import "regexp"

// mask replaces what must not be kept.
type mask struct {
	rules []rule
}

type rule struct {
	pattern *regexp.Regexp
	with    []byte
}

func newMask(config Config) mask {
	var m mask
	add := func(pattern, with string) {
		m.rules = append(m.rules, rule{regexp.MustCompile(pattern), []byte(with)})
	}
	if config.Secrets {
		add(`-----BEGIN [A-Z ]*PRIVATE KEY-----`, "[private key]")
		add(`([a-z][a-z0-9+.-]*://)[^/\s:@]+:[^/\s@]+@`, "${1}[secret]@")
		add(`\b(AKIA|ASIA)[0-9A-Z]{16}\b`, "[secret]")
		add(`\b(hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}|sk-[\w-]{16,}|AIza[\w-]{30,})`, "[secret]")
		add(`\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*`, "[secret]") // a JSON web token
		add(`(?i)\b(bearer|basic)\s+[A-Za-z0-9+/=._-]{8,}`, "${1} [secret]")
		add(`(?i)([\w-]*(?:password|passwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credentials?)["']?\s*[=:]\s*)("[^"]*"|'[^']*'|[^\s,;&"'\[][^\s,;&"']*)`, "${1}[secret]")
	}
	if config.Personal {
		add(`[\w.+-]+@[\w-]+(\.[\w-]+)+`, "[e-mail]")
		add(`\b(?:\d{1,3}\.){3}\d{1,3}\b`, "[address]")
		add(`\b(?:[0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}\b`, "[address]")
	}
	return m
}

func (m mask) active() bool { return len(m.rules) > 0 }

// line gives a text with what must not be kept replaced.
func (m mask) line(p []byte) []byte {
	for _, r := range m.rules {
		if r.pattern.Match(p) {
			p = r.pattern.ReplaceAll(p, r.with)
		}
	}
	return p
}
