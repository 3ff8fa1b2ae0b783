package notify

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
)

// Sign gives a prefix and the HMAC-SHA256 of parts, in lower-case hex.
func Sign(prefix, secret string, parts ...[]byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	for _, part := range parts {
		_, _ = mac.Write(part)
	}
	return prefix + hex.EncodeToString(mac.Sum(nil))
}

// Signed tells whether a signature is the one that [Sign] gives, in constant
// time. An empty secret signs nothing.
func Signed(prefix, signature, secret string, parts ...[]byte) bool {
	return secret != "" && hmac.Equal([]byte(signature), []byte(Sign(prefix, secret, parts...)))
}
