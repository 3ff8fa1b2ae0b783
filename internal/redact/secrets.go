package redact

// secret is what one sort of secret looks like. A group, where there is one, is
// what is kept in front of it.
type secret struct{ pattern, with string }

// secrets are what is known by its look. The forms of tokens are their issuers'
// documented prefixes.
func secrets() []secret {
	return []secret{
		{`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)`, "[private key]"},
		{`\bPRIVATE\+KEY\+\S+`, "[private key]"},                       // of a signed note
		{`\b(?:vgl|vgllocal|vjt)_[A-Za-z0-9_-]{8,}`, markSecret},       // Vigil's own tokens
		{`([a-z][a-z0-9+.-]*://)[^/\s:@]*:[^/\s@]+@`, "${1}[secret]@"}, // a URL's user and password
		{`https://hooks\.slack\.com/(?:services|workflows|triggers)/[^\s"']+`, markSecret},
		{`\b(?:AKIA|ASIA)[0-9A-Z]{16}\b`, markSecret}, // AWS
		{`\b(?:hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|glsa_\w{20,}|xox[abeoprs]-[\w-]{10,}|sk-[\w-]{16,}|npm_[A-Za-z0-9]{20,}|pypi-[\w-]{16,}|AIza[\w-]{30,})`, markSecret},
		{`\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*`, markSecret}, // a JSON web token
		{`(?i)\b(bearer|basic)\s+[A-Za-z0-9+/=._~-]{8,}`, "${1} [secret]"},
		{`(?i)([\w-]*(?:password|passwd|passphrase|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|routing[_-]?key|integration[_-]?key|credentials?)\\*["']?\s*[=:]\s*)(\\*"[^"]*"|'[^']*'|[^\s,;&"'\[][^\s,;&"']*)`, "${1}[secret]"},
	}
}

// secretNames are what attributes with secrets are called; one that ends with
// "_" and one of them counts too.
func secretNames() []string {
	return []string{
		"password", "passwd", "passphrase", "secret", "token", "api_key", "apikey", "access_key", "private_key", "signing_key",
		"routing_key", "integration_key", "authorization", "cookie", "credential", "credentials",
	}
}
