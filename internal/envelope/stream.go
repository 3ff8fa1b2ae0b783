package envelope

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/streamingaead"

	"github.com/vigil-ml/vigil/internal/fault"
)

// streamFormat begins a sealed stream, which is a line of JSON with the stream's
// key, encrypted with a KEK, and then what it encrypted.
const streamFormat = "vigil-sealed"

// maxHeadBytes bounds a stream's first line.
const maxHeadBytes = 64 << 10

type streamHead struct {
	Format  string          `json:"format"`
	Version int             `json:"version"`
	KEK     string          `json:"kek_id"`
	Keyset  json.RawMessage `json:"keyset"` // Tink's encrypted keyset
}

// SealTo gives a writer of what only holders of the KEK can read: a fresh key
// encrypts it. Close ends it and does not close the writer below. What a stream
// says it is, its purpose, must be the same when it is opened.
func (k Keys) SealTo(ctx context.Context, to io.Writer, purpose string) (io.WriteCloser, error) {
	handle, err := keyset.NewHandle(streamingaead.AES256GCMHKDF1MBKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("make key of stream: %w", err)
	}
	if err := k.writeHead(ctx, to, handle); err != nil {
		return nil, err
	}
	primitive, err := streamingaead.New(handle)
	if err != nil {
		return nil, fmt.Errorf("use key of stream: %w", err)
	}
	return primitive.NewEncryptingWriter(to, []byte(purpose))
}

func (k Keys) writeHead(ctx context.Context, to io.Writer, handle *keyset.Handle) error {
	var encrypted bytes.Buffer
	if err := handle.WriteWithContext(ctx, keyset.NewJSONWriter(&encrypted), k.Current, nil); err != nil {
		return fmt.Errorf("encrypt key of stream: %w", err)
	}
	head, err := json.Marshal(streamHead{streamFormat, 1, k.Current.ID, encrypted.Bytes()})
	if err != nil {
		return fmt.Errorf("write head of stream: %w", err)
	}
	_, err = to.Write(append(head, '\n'))
	return err
}

// Sealed tells whether what is read begins as a sealed stream does.
func Sealed(from *bufio.Reader) bool {
	begin, _ := from.Peek(len(`{"format":"` + streamFormat + `"`))
	return string(begin) == `{"format":"`+streamFormat+`"`
}

// OpenFrom gives what a stream holds. It fails with [fault.Denied] when its KEK
// is not at hand and with [fault.Corrupt] when it is no such stream; reading
// fails where it was changed or cut short.
func (k Keys) OpenFrom(ctx context.Context, from *bufio.Reader, purpose string) (io.Reader, error) {
	_, handle, err := k.readHead(ctx, from)
	if err != nil {
		return nil, err
	}
	primitive, err := streamingaead.New(handle)
	if err != nil {
		return nil, fmt.Errorf("use key of stream: %w", err)
	}
	return primitive.NewDecryptingReader(from, []byte(purpose))
}

// RewrapStream copies a stream with its key encrypted with the current KEK; what
// the key encrypted stays as it is. Before is the id of the KEK that it had.
func (k Keys) RewrapStream(ctx context.Context, to io.Writer, from *bufio.Reader) (before string, err error) {
	head, handle, err := k.readHead(ctx, from)
	if err != nil {
		return "", err
	}
	if err := k.writeHead(ctx, to, handle); err != nil {
		return "", err
	}
	_, err = io.Copy(to, from)
	return head.KEK, err
}

func (k Keys) readHead(ctx context.Context, from *bufio.Reader) (head streamHead, handle *keyset.Handle, err error) {
	line, err := headLine(from)
	if err != nil {
		return head, nil, err
	}
	if err := json.Unmarshal(line, &head); err != nil || head.Format != streamFormat {
		return head, nil, fault.New(fault.Corrupt, "open stream: it is not one that Vigil encrypted, or is damaged")
	}
	if head.Version != 1 {
		return head, nil, fault.New(fault.Unsupported, "open stream: it has version %d; this program reads 1", head.Version)
	}
	kek, ok := k.Find(head.KEK)
	if !ok {
		return head, nil, fault.New(fault.Denied, "open stream: it was encrypted with key %s, and there is %s (%s)", head.KEK, k.Current.ID, k.Current.Source)
	}
	handle, err = keyset.ReadWithContext(ctx, keyset.NewJSONReader(bytes.NewReader(head.Keyset)), kek, nil)
	if err != nil && !fault.Is(err, fault.Unavailable) {
		err = fault.New(fault.Corrupt, "open stream: its key does not open: %w", err)
	}
	return head, handle, err
}

// headLine reads the first line, of bounded length.
func headLine(from *bufio.Reader) ([]byte, error) {
	var line []byte
	for len(line) < maxHeadBytes {
		part, err := from.ReadSlice('\n')
		line = append(line, part...)
		if err == nil {
			return line, nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			break
		}
	}
	return nil, fault.New(fault.Corrupt, "open stream: it has no head, or is damaged")
}
