package seal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"time"

	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/streamingaead"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
)

const (
	keyringFormat   = "vigil-keyring"
	keyringVersion  = 1
	maxKeyringBytes = 1 << 20
)

// Keyring is the keys that files are encrypted with: one that is used for new
// files, and older ones that still open what they sealed. On disk it is a Tink
// keyset, encrypted with a [KEK]; the keys never lie there in the clear. A
// Keyring does not change; it is safe for concurrent use.
type Keyring struct {
	handle    *keyset.Handle
	primitive tink.StreamingAEAD
}

// keyringFile is a keyring on disk.
type keyringFile struct {
	Format  string          `json:"format"`
	Version int             `json:"version"`
	KEK     string          `json:"kek_id"` // of the key that opens it
	Written time.Time       `json:"written"`
	Keyset  json.RawMessage `json:"keyset"` // Tink's encrypted keyset
}

// OpenKeyring reads a keyring, or makes one with a first key where there is
// none. Of several nodes that make one at the same time, one wins and all get
// the same. It fails with [fault.Denied] when the file was encrypted with
// another KEK.
func OpenKeyring(fsys durable.FS, path string, kek KEK, now time.Time) (*Keyring, error) {
	for range 2 {
		data, err := os.ReadFile(path)
		if err == nil {
			return decodeKeyring(path, data, kek)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("open keyring: %w", err)
		}
		if err := createKeyring(fsys, path, kek, now); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make keyring %s: %w", path, err)
		}
	}
	return nil, fault.New(fault.Unavailable, "open keyring: %s appears and goes away again", path)
}

// createKeyring writes the file beside itself and links it, which only one of
// those who try can do.
func createKeyring(fsys durable.FS, path string, kek KEK, now time.Time) error {
	manager := keyset.NewManager()
	if err := addPrimary(manager); err != nil {
		return err
	}
	handle, err := manager.Handle()
	if err != nil {
		return err
	}
	beside := path + "." + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatInt(now.UnixNano(), 36)
	if err := writeKeyring(fsys, beside, handle, kek, now); err != nil {
		return err
	}
	defer func() { _ = os.Remove(beside) }()
	return os.Link(beside, path)
}

func addPrimary(manager *keyset.Manager) error {
	id, err := manager.Add(streamingaead.AES256GCMHKDF1MBKeyTemplate())
	if err != nil {
		return err
	}
	return manager.SetPrimary(id)
}

func decodeKeyring(path string, data []byte, kek KEK) (*Keyring, error) {
	var file keyringFile
	if err := json.Unmarshal(data, &file); err != nil || file.Format != keyringFormat || len(data) > maxKeyringBytes {
		return nil, fault.New(fault.Corrupt, "open keyring: %s is no keyring, or is damaged", path)
	}
	if file.Version != keyringVersion {
		return nil, fault.New(fault.Unsupported, "open keyring: %s has version %d; this program reads %d", path, file.Version, keyringVersion)
	}
	if file.KEK != kek.ID {
		return nil, fault.New(fault.Denied, "open keyring: %s was encrypted with key %s, and %s is key %s; give the key that it was made with",
			path, file.KEK, kek.Source, kek.ID)
	}
	handle, err := keyset.Read(keyset.NewJSONReader(bytes.NewReader(file.Keyset)), kek.AEAD)
	if err != nil {
		return nil, fault.New(fault.Corrupt, "open keyring: %s does not open with its key; it is damaged: %w", path, err)
	}
	return newKeyring(handle)
}

func newKeyring(handle *keyset.Handle) (*Keyring, error) {
	primitive, err := streamingaead.New(handle)
	if err != nil {
		return nil, fmt.Errorf("use keyring: %w", err)
	}
	return &Keyring{handle: handle, primitive: primitive}, nil
}

func writeKeyring(fsys durable.FS, path string, handle *keyset.Handle, kek KEK, now time.Time) error {
	var sealed bytes.Buffer
	if err := handle.Write(keyset.NewJSONWriter(&sealed), kek.AEAD); err != nil {
		return fmt.Errorf("encrypt keyring: %w", err)
	}
	data, err := json.MarshalIndent(keyringFile{
		Format: keyringFormat, Version: keyringVersion, KEK: kek.ID, Written: now.UTC(), Keyset: sealed.Bytes(),
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode keyring: %w", err)
	}
	return durable.WriteFile(fsys, path, append(data, '\n'), 0o600)
}

// ID names the key that new files are encrypted with.
func (k *Keyring) ID() string {
	entry, err := k.handle.Primary()
	if err != nil {
		return ""
	}
	return strconv.FormatUint(uint64(entry.KeyID()), 16)
}

// Has tells whether a key is in the keyring; a nil keyring has none.
func (k *Keyring) Has(id string) bool {
	if k == nil {
		return false
	}
	for i := range k.handle.Len() {
		if entry, err := k.handle.Entry(i); err == nil && strconv.FormatUint(uint64(entry.KeyID()), 16) == id {
			return true
		}
	}
	return false
}

// lack says why there is no such key, for a person.
func (k *Keyring) lack() string {
	if k == nil {
		return "nobody configured: set vault.encryption"
	}
	return "is not in the keyring; was the keyring replaced?"
}

// Size is the number of keys.
func (k *Keyring) Size() int { return k.handle.Len() }

// Rewrap encrypts the keyring at path with another KEK. The keys stay the same,
// so that no file needs to be written anew: a KEK is replaced in milliseconds.
func Rewrap(fsys durable.FS, path string, old, fresh KEK, now time.Time) error {
	ring, err := OpenKeyring(fsys, path, old, now)
	if err != nil {
		return err
	}
	if err := writeKeyring(fsys, path, ring.handle, fresh, now); err != nil {
		return fmt.Errorf("rewrap keyring: %w", err)
	}
	return nil
}

// Rotate adds a key to the keyring at path, which files are encrypted with from
// then on. Older keys stay, for what they sealed. Agents that are running take
// the new key up when they start.
func Rotate(fsys durable.FS, path string, kek KEK, now time.Time) (*Keyring, error) {
	ring, err := OpenKeyring(fsys, path, kek, now)
	if err != nil {
		return nil, err
	}
	manager := keyset.NewManagerFromHandle(ring.handle)
	if err := addPrimary(manager); err != nil {
		return nil, fmt.Errorf("rotate keyring: %w", err)
	}
	handle, err := manager.Handle()
	if err != nil {
		return nil, fmt.Errorf("rotate keyring: %w", err)
	}
	if err := writeKeyring(fsys, path, handle, kek, now); err != nil {
		return nil, fmt.Errorf("rotate keyring: %w", err)
	}
	return newKeyring(handle)
}

func (k *Keyring) encrypting(out io.Writer, name string) (io.WriteCloser, error) {
	return k.primitive.NewEncryptingWriter(out, []byte(name))
}

func (k *Keyring) decrypting(in io.Reader, name string) (io.Reader, error) {
	return k.primitive.NewDecryptingReader(in, []byte(name))
}
