package envelope

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/tink-crypto/tink-go/v2/aead/subtle"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/vigil-ml/vigil/internal/fault"
)

// KEK is a key that encrypts keys. It encrypts little and seldom: keysets, when
// a program starts and when keys are rotated. A KEK does not change; it is safe
// for concurrent use, and its two methods are all that a key management service
// has to be able to do. envelopetest has what every KEK must keep.
type KEK struct {
	// ID names the key without giving it away.
	ID string
	// Source says where it came from, for messages: a file, a variable, a program.
	Source string
	tink.AEADWithContext
}

// kekBytes is the size of a local KEK: AES-256.
const kekBytes = 32

// local is a KEK whose bytes are here: AES-256-GCM with a random nonce of 96 bits.
type local struct{ gcm *subtle.AESGCM }

// EncryptWithContext encrypts.
func (l local) EncryptWithContext(ctx context.Context, plaintext, associated []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return l.gcm.Encrypt(plaintext, associated)
}

// DecryptWithContext decrypts.
func (l local) DecryptWithContext(ctx context.Context, ciphertext, associated []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	plaintext, err := l.gcm.Decrypt(ciphertext, associated)
	if err != nil {
		return nil, fault.New(fault.Corrupt, "decrypt: it was encrypted with another key or for another place, or is damaged")
	}
	return plaintext, nil
}

// NewKEK makes a KEK of 32 bytes.
func NewKEK(key []byte, source string) (KEK, error) {
	if len(key) != kekBytes {
		return KEK{}, fault.New(fault.Invalid, "key of %s has %d bytes; want %d", source, len(key), kekBytes)
	}
	gcm, err := subtle.NewAESGCM(key)
	if err != nil {
		return KEK{}, fmt.Errorf("use key of %s: %w", source, err)
	}
	sum := sha256.Sum256(append([]byte("vigil key id\x00"), key...))
	return KEK{ID: hex.EncodeToString(sum[:6]), Source: source, AEADWithContext: local{gcm}}, nil
}

// OfFile reads a KEK from a file: 32 bytes in base64, as `openssl rand -base64
// 32` and [Generate] write them. A file that others may read, or that is neither
// this user's nor root's, is refused.
func OfFile(path string) (KEK, error) {
	info, err := os.Stat(path)
	if err != nil {
		return KEK{}, fmt.Errorf("read key: %w", err)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return KEK{}, fault.New(fault.Denied, "key file %s is of user %d, who can read and change it; run: chown %d %s", path, stat.Uid, os.Geteuid(), path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return KEK{}, fault.New(fault.Denied, "key file %s can be read by others (mode %04o); run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return KEK{}, fmt.Errorf("read key: %w", err)
	}
	return ofText(string(data), path)
}

// OfEnv reads a KEK, in base64, from an environment variable.
func OfEnv(name string, getenv func(string) string) (KEK, error) {
	text := getenv(name)
	if text == "" {
		return KEK{}, fault.New(fault.NotFound, "the environment has no %s; it must hold the key, 32 bytes in base64", name)
	}
	return ofText(text, "variable "+name)
}

// ofText never repeats the text in an error: it is a secret.
func ofText(text, source string) (KEK, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil {
		return KEK{}, fault.New(fault.Invalid, "key of %s is not base64; make one with: openssl rand -base64 32", source)
	}
	return NewKEK(key, source)
}

// Generate gives a fresh key as the text of a key file.
func Generate() string {
	key := make([]byte, kekBytes)
	_, _ = rand.Read(key) // never fails
	return base64.StdEncoding.EncodeToString(key) + "\n"
}
