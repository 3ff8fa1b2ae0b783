package envelope

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead"

	"github.com/vigil-ml/vigil/internal/fault"
)

const (
	commandTime      = 30 * time.Second
	maxCommandOutput = 16 << 10
)

// OfCommand gives a KEK of a key management service that a program speaks to.
// The program gets one argument more, "encrypt" or "decrypt":
//
//	encrypt: reads a key in base64 from its input, writes what the service made
//	         of it, any text of at most 2,048 bytes without a line break inside
//	decrypt: reads that text, writes the key in base64
//
// It has 30 seconds. With exit code 0 it has done it; else what it wrote to its
// standard error is the reason, and the error has the kind [fault.Unavailable].
// The key that it gets is a fresh one of 32 bytes for each encryption, and what is
// to be encrypted is encrypted with that one here: no service has to take more
// than a few bytes, or to know about associated data (Tink's KMS envelope).
func OfCommand(id string, command []string) (KEK, error) {
	if len(command) == 0 || command[0] == "" {
		return KEK{}, fault.New(fault.Invalid, "key %s has no command", id)
	}
	envelope, err := aead.NewKMSEnvelopeAEADWithContext(aead.AES256GCMKeyTemplate(), program{command})
	if err != nil {
		return KEK{}, fmt.Errorf("use key of %s: %w", command[0], err)
	}
	return KEK{ID: id, Source: "program " + command[0], AEADWithContext: envelope}, nil
}

// program asks a program to encrypt and decrypt.
type program struct{ command []string }

// EncryptWithContext has the program encrypt; nothing is associated.
func (p program) EncryptWithContext(ctx context.Context, plaintext, _ []byte) ([]byte, error) {
	out, err := p.run(ctx, "encrypt", base64.StdEncoding.EncodeToString(plaintext))
	if err == nil && out == "" {
		err = fault.New(fault.Unavailable, "%s encrypt: it wrote nothing", p.command[0])
	}
	return []byte(out), err
}

// DecryptWithContext has the program decrypt.
func (p program) DecryptWithContext(ctx context.Context, ciphertext, _ []byte) ([]byte, error) {
	out, err := p.run(ctx, "decrypt", string(ciphertext))
	if err != nil {
		return nil, err
	}
	key, err := base64.StdEncoding.DecodeString(out)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "%s decrypt: what it wrote is not base64", p.command[0]) // and is not repeated
	}
	return key, nil
}

func (p program) run(ctx context.Context, verb, input string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.command[0], append(p.command[1:len(p.command):len(p.command)], verb)...)
	out, complaint := &bounded{}, &bounded{}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), out, complaint
	cmd.WaitDelay = time.Second // what it started may hold its output open
	err := cmd.Run()
	if ctxErr := ctx.Err(); ctxErr != nil {
		return "", fault.Mark(fault.Unavailable, fmt.Errorf("%s %s: %w", p.command[0], verb, ctxErr))
	}
	if err != nil {
		return "", fault.New(fault.Unavailable, "%s %s: %w%s", p.command[0], verb, err, complaint.told())
	}
	text := strings.TrimSpace(out.kept.String())
	if strings.ContainsAny(text, "\r\n") {
		return "", fault.New(fault.Unavailable, "%s %s: it wrote more than one line", p.command[0], verb)
	}
	return text, nil
}

var errTooLong = errors.New("the program wrote too much")

// bounded keeps what a program writes, up to a limit.
type bounded struct{ kept bytes.Buffer }

// Write keeps what comes.
func (b *bounded) Write(p []byte) (int, error) {
	if b.kept.Len()+len(p) > maxCommandOutput {
		return 0, errTooLong
	}
	return b.kept.Write(p)
}

// told is a complaint for an error: on one line, and short.
func (b *bounded) told() string {
	words := strings.Join(strings.Fields(b.kept.String()), " ")
	if words == "" {
		return ""
	}
	return ": " + words[:min(len(words), 300)]
}
