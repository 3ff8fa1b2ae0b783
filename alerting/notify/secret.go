package notify

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/vigil-ml/vigil/internal/fault"
)

// hidden stands where a secret would.
const hidden = "<secret>"

// maxSecretBytes bounds a file with a secret.
const maxSecretBytes = 64 << 10

// Secret is a part of a configuration that must not be seen. It prints, logs
// and marshals as "<secret>"; only [Secret.Reveal] gives it away.
//
// In a configuration file it may be the secret itself or say where it is:
// ${file:/run/secrets/slack} is the content of a file without the line's end,
// ${env:NAME} an environment variable. It is looked up anew for each use, so
// that a secret that is rotated in its file counts from the next try on.
type Secret string

// Reveal gives the secret. It fails with [fault.Unavailable] when a file or a
// variable that it refers to is not there; the error names that, never what is
// in it.
func (s Secret) Reveal() (string, error) {
	var out strings.Builder
	rest := string(s)
	for {
		before, after, found := strings.Cut(rest, "${")
		out.WriteString(before)
		if !found {
			return out.String(), nil
		}
		reference, tail, closed := strings.Cut(after, "}")
		if !closed {
			return "", fault.New(fault.Invalid, "read secret: ${ without its }")
		}
		value, err := lookUp(reference)
		if err != nil {
			return "", err
		}
		out.WriteString(value)
		rest = tail
	}
}

// lookUp gives what a reference stands for.
func lookUp(reference string) (string, error) {
	kind, name, _ := strings.Cut(reference, ":")
	switch kind {
	case "env":
		value, ok := os.LookupEnv(name)
		if !ok {
			return "", fault.New(fault.Unavailable, "read secret: environment variable %s is not set", name)
		}
		return value, nil
	case "file":
		f, err := os.Open(name)
		if err != nil {
			return "", fault.New(fault.Unavailable, "read secret: %w", err)
		}
		defer func() { _ = f.Close() }()
		text, err := io.ReadAll(io.LimitReader(f, maxSecretBytes+1))
		if err != nil {
			return "", fault.New(fault.Unavailable, "read secret: %w", err)
		}
		if len(text) > maxSecretBytes {
			return "", fault.New(fault.Invalid, "read secret: %s is longer than %d bytes", name, maxSecretBytes)
		}
		return strings.TrimRight(string(text), "\r\n"), nil
	default:
		return "", fault.New(fault.Invalid, "read secret: want ${file:PATH} or ${env:NAME}")
	}
}

// CheckSecret reports a secret that is missing or that cannot be looked up,
// which is better known when the program starts than at the first incident.
func CheckSecret(report func(key, format string, args ...any), key string, secret Secret) {
	value, err := secret.Reveal()
	switch {
	case err != nil:
		report(key, "%v", err)
	case value == "":
		report(key, "is missing")
	case strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }):
		report(key, "holds a line break or a control character")
	}
}

// String hides the secret.
func (Secret) String() string { return hidden }

// GoString hides the secret.
func (Secret) GoString() string { return hidden }

// LogValue hides the secret.
func (Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalJSON hides the secret.
func (Secret) MarshalJSON() ([]byte, error) { return json.Marshal(hidden) }

// MarshalYAML hides the secret.
func (Secret) MarshalYAML() (any, error) { return hidden, nil }

// CheckURL reports what is wrong with the URL of a receiver; its text names no
// part of the URL, since that is a secret.
func CheckURL(report func(key, format string, args ...any), key string, secret Secret) {
	if secret == "" {
		report(key, "is missing; want the receiver's http or https URL")
		return
	}
	text, err := secret.Reveal()
	if err != nil {
		report(key, "%v", err)
		return
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		report(key, "is not a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		report(key, "does not begin with http:// or https://")
	case u.Hostname() == "":
		report(key, "names no host")
	}
}

// redact takes secrets out of a text that comes from elsewhere.
func redact(text string, secrets []string) string {
	for _, secret := range secrets {
		text = strings.ReplaceAll(text, secret, hidden)
	}
	return text
}

// secretsOf is every part of a request that must not be seen, the longest
// first: what the URL has beyond its host, the values of headers that the user
// wrote, and more.
func secretsOf(u *url.URL, headers map[string]string, more ...string) []string {
	password, _ := u.User.Password()
	secrets := append(more, u.String(), u.RequestURI(), u.EscapedPath(), u.Path, u.RawQuery, u.User.String(), password)
	for part := range strings.SplitSeq(u.Path, "/") {
		if len(part) >= 8 { // shorter ones are words such as "hooks"
			secrets = append(secrets, part)
		}
	}
	for _, values := range u.Query() {
		secrets = append(secrets, values...)
	}
	for _, value := range headers {
		secrets = append(secrets, value, strings.TrimPrefix(value, "Bearer "))
	}
	// A secret of one or two letters is none, and to hide "/" would garble all.
	secrets = slices.DeleteFunc(secrets, func(s string) bool { return len(s) < 3 })
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	return slices.Compact(secrets)
}
