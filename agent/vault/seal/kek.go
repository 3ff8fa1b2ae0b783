package seal

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"github.com/tink-crypto/tink-go/v2/aead/subtle"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/vigil-ml/vigil/internal/fault"
)

// KEK is the key that encrypts keys. Its AEAD may be a local key, or a key
// management service that never gives its key away.
type KEK struct {
	// ID names the key without giving it away.
	ID string
	// Source says where it came from, for messages: a file, a variable.
	Source string
	AEAD   tink.AEAD
}

// kekBytes is the size of a local KEK: AES-256.
const kekBytes = 32

// NewKEK makes a KEK of 32 bytes.
func NewKEK(key []byte, source string) (KEK, error) {
	if len(key) != kekBytes {
		return KEK{}, fault.New(fault.Invalid, "key of %s has %d bytes; want %d", source, len(key), kekBytes)
	}
	aead, err := subtle.NewAESGCM(key)
	if err != nil {
		return KEK{}, fmt.Errorf("use key of %s: %w", source, err)
	}
	sum := sha256.Sum256(append([]byte("vigil key id\x00"), key...))
	return KEK{ID: hex.EncodeToString(sum[:6]), Source: source, AEAD: aead}, nil
}

// KEKOfFile reads a KEK from a file: 32 bytes in base64, as `openssl rand
// -base64 32` and [GenerateKEK] write them. A file that others may read is
// refused.
func KEKOfFile(path string) (KEK, error) {
	info, err := os.Stat(path)
	if err != nil {
		return KEK{}, fmt.Errorf("read key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return KEK{}, fault.New(fault.Denied, "key file %s can be read by others (mode %04o); run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return KEK{}, fmt.Errorf("read key: %w", err)
	}
	return kekOfText(string(data), path)
}

// KEKOfEnv reads a KEK, in base64, from an environment variable.
func KEKOfEnv(name string, getenv func(string) string) (KEK, error) {
	text := getenv(name)
	if text == "" {
		return KEK{}, fault.New(fault.NotFound, "the environment has no %s; it must hold the key, 32 bytes in base64", name)
	}
	return kekOfText(text, "variable "+name)
}

// kekOfText never repeats the text in an error: it is a secret.
func kekOfText(text, source string) (KEK, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil {
		return KEK{}, fault.New(fault.Invalid, "key of %s is not base64; make one with: openssl rand -base64 32", source)
	}
	return NewKEK(key, source)
}

// GenerateKEK gives a fresh key as the text of a key file.
func GenerateKEK() string {
	key := make([]byte, kekBytes)
	_, _ = rand.Read(key) // never fails
	return base64.StdEncoding.EncodeToString(key) + "\n"
}
