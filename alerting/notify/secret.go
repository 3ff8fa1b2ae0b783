package notify

import (
	"encoding/json"
	"log/slog"
	"net/url"
	"slices"
	"strings"
)

// hidden stands where a secret would.
const hidden = "<secret>"

// Secret is a part of a configuration that must not be seen. It prints, logs
// and marshals as "<secret>"; only a conversion to string gives it away.
type Secret string

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
	u, err := url.Parse(string(secret))
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
// first: what the URL has beyond its host, and the values of headers that
// the user wrote.
func secretsOf(u *url.URL, headers map[string]Secret) []string {
	password, _ := u.User.Password()
	secrets := []string{u.String(), u.RequestURI(), u.EscapedPath(), u.Path, u.RawQuery, u.User.String(), password}
	for part := range strings.SplitSeq(u.Path, "/") {
		if len(part) >= 8 { // shorter ones are words such as "hooks"
			secrets = append(secrets, part)
		}
	}
	for _, values := range u.Query() {
		secrets = append(secrets, values...)
	}
	for _, value := range headers {
		secrets = append(secrets, string(value), strings.TrimPrefix(string(value), "Bearer "))
	}
	// A secret of one or two letters is none, and to hide "/" would garble all.
	secrets = slices.DeleteFunc(secrets, func(s string) bool { return len(s) < 3 })
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	return slices.Compact(secrets)
}
