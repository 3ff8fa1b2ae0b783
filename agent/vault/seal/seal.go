// Package seal turns a checkpoint's files into what is stored and back: zstd
// where it pays, authenticated streaming encryption where there is a key, and a
// digest over every stored byte.
//
// Files are encrypted with Tink's AES256-GCM-HKDF in segments of 1 MiB: every
// file has a key of its own, derived from one of a [Keyring] and a random salt,
// and every segment is authenticated with its place, so that none can be
// changed, swapped, repeated, or left off at the end. The name of the file and
// of its checkpoint is part of what is authenticated: a file that is put in
// another's place does not open.
package seal

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"github.com/vigil-ml/vigil/internal/fault"
)

const (
	chunkBytes = 1 << 20
	// readBytes is read at a time: what goes from one stage to the next stays in the
	// processor's cache.
	readBytes = 128 << 10
	// worthwhile is how small the first chunk must become for a file to be
	// compressed: float weights do not shrink at all, and zstd costs more than
	// everything else here together.
	worthwhile = 0.9
	// zstdName marks a file that was compressed.
	zstdName = "zstd"
)

// Encoded says how a file is stored.
type Encoded struct {
	SizeBytes   int64  // of the content
	StoredBytes int64  // of what is stored
	BLAKE3      string // of what is stored: 64 lower-case hex digits
	Compression string // "zstd", or empty
	KeyID       string // of the key that it is encrypted with; empty: in the clear
}

// Codec encodes and decodes files. It is safe for concurrent use.
type Codec struct {
	// Keys encrypts; nil stores files in the clear.
	Keys *Keyring
	// Compress has files compressed that shrink by it.
	Compress bool
}

// Snapshot is the codec with the keys as they are now.
func (c Codec) Snapshot() Codec {
	if c.Keys != nil {
		c.Keys = c.Keys.Snapshot()
	}
	return c
}

// Plain tells whether the file is stored as it is.
func (e Encoded) Plain() bool { return e.KeyID == "" && e.Compression == "" }

// Encode writes what is read, encoded, and says how. Name is what the file is
// bound to: decoding needs the same. What was written before an error is of no
// use.
func (c Codec) Encode(ctx context.Context, out io.Writer, in io.Reader, name string) (Encoded, error) {
	c = c.Snapshot()
	digest := blake3.New()
	stored := &counter{to: io.MultiWriter(digest, out)}
	first := make([]byte, chunkBytes)
	n, err := io.ReadFull(in, first)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return Encoded{}, err
	}
	var e Encoded
	if c.Compress && shrinks(first[:n]) {
		e.Compression = zstdName
	}
	if c.Keys != nil {
		e.KeyID = c.Keys.ID()
	}
	if n < chunkBytes { // a small file is not worth a task
		e.SizeBytes, err = c.stages(ctx, stored, bytes.NewReader(first[:n]), e, name)
	} else {
		e.SizeBytes, err = c.pipeline(ctx, stored, io.MultiReader(bytes.NewReader(first), in), e, name)
	}
	if err != nil {
		return Encoded{}, err
	}
	e.StoredBytes = stored.bytes
	e.BLAKE3 = hex.EncodeToString(digest.Sum(nil))
	return e, nil
}

// pipeline has what the stages make digested and written on a task of its own. It
// gives the number of bytes read.
func (c Codec) pipeline(ctx context.Context, stored io.Writer, in io.Reader, e Encoded, name string) (int64, error) {
	written := newBehind(ctx, stored)
	defer func() { _ = written.end() }()
	var size int64
	var err error
	if e.Plain() {
		size, err = written.fill(ctx, in)
	} else {
		size, err = c.stages(ctx, written, in, e, name)
	}
	if err != nil {
		return 0, err
	}
	return size, written.Close()
}

// stages compresses and encrypts what is read, as e says, into sink.
func (c Codec) stages(ctx context.Context, sink io.Writer, in io.Reader, e Encoded, name string) (int64, error) {
	to, closeAll, err := c.writers(sink, e.Compression, name)
	if err != nil {
		return 0, err
	}
	content := &counter{to: to}
	if err := copyUntil(ctx, content, in, make([]byte, readBytes)); err != nil {
		return 0, err
	}
	return content.bytes, closeAll()
}

// writers puts compression before encryption before out.
func (c Codec) writers(out io.Writer, compression, name string) (io.Writer, func() error, error) {
	var stages []io.Closer // the first is closed last
	if c.Keys != nil {
		sealed, err := c.Keys.encrypting(out, name)
		if err != nil {
			return nil, nil, fmt.Errorf("encrypt: %w", err)
		}
		out, stages = sealed, append(stages, sealed)
	}
	if compression == zstdName {
		small, err := zstd.NewWriter(out, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
		if err != nil {
			return nil, nil, fmt.Errorf("compress: %w", err)
		}
		out, stages = small, append(stages, small)
	}
	return out, func() error {
		for i := len(stages) - 1; i >= 0; i-- {
			if err := stages[i].Close(); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// shrinks tells whether compressing a file that begins so is worth while.
func shrinks(first []byte) bool {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil || len(first) == 0 {
		return false
	}
	return float64(len(encoder.EncodeAll(first, nil))) < worthwhile*float64(len(first))
}

// Checking gives the bytes of a stored file as long as they agree with what is
// said of it: where they do not, the last of them are kept back.
type Checking struct {
	in     io.Reader
	e      Encoded
	digest *blake3.Hasher
	read   int64
	wrong  error
}

// Checked checks what is read.
func Checked(in io.Reader, e Encoded) *Checking {
	return &Checking{in: in, e: e, digest: blake3.New()}
}

// Read reads. A disagreement is an error of kind [fault.Corrupt].
func (c *Checking) Read(p []byte) (int, error) {
	if c.wrong != nil {
		return 0, c.wrong
	}
	n, err := c.in.Read(p)
	_, _ = c.digest.Write(p[:n]) // never fails
	c.read += int64(n)
	if c.read >= c.e.StoredBytes || err == io.EOF {
		if c.wrong = c.e.compare(c.read, c.digest); c.wrong != nil {
			return 0, c.wrong
		}
	}
	return n, err
}

// Wrong gives the disagreement that was found, for who reads through others.
func (c *Checking) Wrong() error { return c.wrong }

func (e Encoded) compare(stored int64, digest *blake3.Hasher) error {
	if stored != e.StoredBytes {
		return fault.New(fault.Corrupt, "it has %d bytes, its manifest says %d", stored, e.StoredBytes)
	}
	if got := hex.EncodeToString(digest.Sum(nil)); got != e.BLAKE3 {
		return fault.New(fault.Corrupt, "its BLAKE3 is %s, its manifest says %s", got, e.BLAKE3)
	}
	return nil
}

// Decode writes the content of a stored file, checking everything on the way. A
// file that is not what it is said to be gives an error of kind
// [fault.Corrupt], and one that is encrypted with a key that is not at hand one
// of kind [fault.Denied]; what was written until then must not be used.
func (c Codec) Decode(ctx context.Context, out io.Writer, in io.Reader, e Encoded, name string) error {
	digest := blake3.New()
	stored := &counter{to: digest}
	tee := io.TeeReader(in, stored)
	content := &counter{to: out}
	err := c.decode(ctx, content, tee, e, name)
	if ctxErr := ctx.Err(); ctxErr != nil {
		return ctxErr
	}
	// The digest says more than a stage that met bytes which it does not know.
	if rest := copyUntil(ctx, io.Discard, tee, make([]byte, readBytes)); rest != nil {
		return rest
	}
	if wrong := e.compare(stored.bytes, digest); wrong != nil && !fault.Is(err, fault.Denied) {
		return wrong
	}
	if err != nil {
		return err
	}
	if content.bytes != e.SizeBytes {
		return fault.New(fault.Corrupt, "it decodes to %d bytes, its manifest says %d", content.bytes, e.SizeBytes)
	}
	return nil
}

func (c Codec) decode(ctx context.Context, out io.Writer, in io.Reader, e Encoded, name string) error {
	if e.KeyID != "" {
		if !c.Keys.find(ctx, e.KeyID) {
			return fault.New(fault.Denied, "it is encrypted with key %.20s, which %s", e.KeyID, c.Keys.lack())
		}
		opened, err := c.Keys.decrypting(in, name)
		if err != nil {
			return fault.New(fault.Corrupt, "decrypt: %w", err)
		}
		in = opened
	}
	switch e.Compression {
	case "":
	case zstdName:
		small, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<30))
		if err != nil {
			return fault.New(fault.Corrupt, "decompress: %w", err)
		}
		defer small.Close()
		in = small
	default:
		return fault.New(fault.Unsupported, "it is compressed with %.20q, which this program does not know", e.Compression)
	}
	// One byte more than promised is enough to see that it is too long.
	err := copyUntil(ctx, out, io.LimitReader(in, e.SizeBytes+1), make([]byte, chunkBytes))
	if write, ok := errors.AsType[*writeError](err); ok {
		return write.cause
	}
	if err != nil && ctx.Err() == nil {
		return fault.New(fault.Corrupt, "decode: %w", err)
	}
	return err
}

// counter counts what goes through it.
type counter struct {
	to    io.Writer
	bytes int64
}

// Write passes on what comes.
func (c *counter) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.bytes += int64(n)
	return n, err
}

// writeError is a failure of where one writes to, rather than of what is read.
type writeError struct{ cause error }

func (e *writeError) Error() string { return e.cause.Error() }
func (e *writeError) Unwrap() error { return e.cause }

// copyUntil copies until the end of in or of ctx.
func copyUntil(ctx context.Context, out io.Writer, in io.Reader, buffer []byte) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := in.Read(buffer)
		if n > 0 {
			if _, err := out.Write(buffer[:n]); err != nil {
				return &writeError{err}
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
