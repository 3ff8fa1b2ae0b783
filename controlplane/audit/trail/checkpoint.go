package trail

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Checkpoint is the head of a tree of a log, as C2SP tlog-checkpoint has it.
type Checkpoint struct {
	Origin string // names the log; also the name of its key
	Size   uint64
	Root   tlog.Hash
}

// Body is the text that is signed.
func (c Checkpoint) Body() string {
	return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, c.Root)
}

// GenerateKey makes a log's key pair: the secret key for a file that only the
// log reads, and the public one, which names the log.
func GenerateKey(origin string) (secret, public string, err error) {
	secret, public, err = note.GenerateKey(rand.Reader, origin)
	if err != nil {
		return "", "", fmt.Errorf("make key of audit log %s: %w", origin, err)
	}
	return secret, public, nil
}

// Sign signs a head and gives the signature alone, in base64: the key's id and
// the Ed25519 signature.
func Sign(signer note.Signer, c Checkpoint) (string, error) {
	sig, err := signer.Sign([]byte(c.Body()))
	if err != nil {
		return "", fmt.Errorf("sign checkpoint %d: %w", c.Size, err)
	}
	id := signer.KeyHash()
	return base64.StdEncoding.EncodeToString(append([]byte{byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)}, sig...)), nil
}

// Note gives the head with its signature as a C2SP signed note.
func (c Checkpoint) Note(signature string) string {
	return c.Body() + "\n— " + c.Origin + " " + signature + "\n"
}

// OpenCheckpoint reads a signed note and checks its signature. What is not
// signed by the key gives [fault.Corrupt].
func OpenCheckpoint(key note.Verifier, text string) (Checkpoint, error) {
	n, err := note.Open([]byte(text), note.VerifierList(key))
	if err != nil {
		return Checkpoint{}, fault.New(fault.Corrupt, "read checkpoint: %w", err)
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) < 4 || lines[len(lines)-1] != "" {
		return Checkpoint{}, fault.New(fault.Corrupt, "read checkpoint: want origin, size and root, each on a line")
	}
	size, err := strconv.ParseUint(lines[1], 10, 63)
	if err != nil || strconv.FormatUint(size, 10) != lines[1] {
		return Checkpoint{}, fault.New(fault.Corrupt, "read checkpoint: size %q is no number", lines[1])
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return Checkpoint{}, fault.New(fault.Corrupt, "read checkpoint: root %q: %w", lines[2], err)
	}
	c := Checkpoint{Origin: lines[0], Size: size, Root: root}
	if c.Origin != key.Name() {
		return Checkpoint{}, fault.New(fault.Corrupt, "the checkpoint is of log %q, the key of %q", c.Origin, key.Name())
	}
	return c, nil
}

// signed tells whether a signature is the key's for a head.
func signed(key note.Verifier, c Checkpoint, signature string) bool {
	raw, err := base64.StdEncoding.Strict().DecodeString(signature)
	if err != nil || len(raw) < 4 {
		return false
	}
	id := uint32(raw[0])<<24 | uint32(raw[1])<<16 | uint32(raw[2])<<8 | uint32(raw[3])
	return id == key.KeyHash() && key.Verify([]byte(c.Body()), raw[4:])
}

// PublicOf gives the public key of a secret one.
func PublicOf(secret string) (string, error) {
	parts := strings.SplitN(strings.TrimSpace(secret), "+", 5) // PRIVATE+KEY+name+id+key
	if len(parts) != 5 {
		return "", fault.New(fault.Corrupt, "the secret key of the audit log is damaged")
	}
	raw, err := base64.StdEncoding.DecodeString(parts[4])
	if err != nil || len(raw) != 1+ed25519.SeedSize {
		return "", fault.New(fault.Corrupt, "the secret key of the audit log is damaged")
	}
	public := ed25519.NewKeyFromSeed(raw[1:]).Public().(ed25519.PublicKey)
	text, err := note.NewEd25519VerifierKey(parts[2], public)
	if err != nil {
		return "", fmt.Errorf("name public key of audit log: %w", err)
	}
	return text, nil
}

// OpenKey reads a public key, as [GenerateKey] gives it.
func OpenKey(public string) (note.Verifier, error) {
	key, err := note.NewVerifier(strings.TrimSpace(public))
	if err != nil {
		return nil, fault.New(fault.Invalid, "read public key of audit log: %w", err)
	}
	return key, nil
}
