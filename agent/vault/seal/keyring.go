package seal

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/tink-crypto/tink-go/v2/streamingaead"
	"github.com/tink-crypto/tink-go/v2/tink"

	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"

	"github.com/vigil-ml/vigil/internal/envelope"
)

// Template is what a key for checkpoints is.
func Template() *tinkpb.KeyTemplate { return streamingaead.AES256GCMHKDF1MBKeyTemplate() }

// Keyring is the keys that files are encrypted with: one that is used for new
// files, and older ones that still open what they sealed. They lie in an
// [envelope.File], which other agents may add keys to: one that is missing is
// looked for there. It is safe for concurrent use.
type Keyring struct {
	file envelope.File

	mu        sync.Mutex
	set       *envelope.Set
	primitive tink.StreamingAEAD
}

// OpenKeyring reads a keyring, or makes one where there is none; see
// [envelope.File.Open] for its errors.
func OpenKeyring(ctx context.Context, file envelope.File) (*Keyring, error) {
	set, err := file.Open(ctx)
	if err != nil {
		return nil, err
	}
	k := &Keyring{file: file}
	return k, k.use(set)
}

func (k *Keyring) use(set *envelope.Set) error {
	primitive, err := streamingaead.New(set.Handle)
	if err != nil {
		return fmt.Errorf("use keyring: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.set, k.primitive = set, primitive
	return nil
}

func (k *Keyring) now() (*envelope.Set, tink.StreamingAEAD) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.set, k.primitive
}

// ID names the key that new files are encrypted with.
func (k *Keyring) ID() string {
	set, _ := k.now()
	return set.Primary()
}

// IDs names all keys, the oldest first.
func (k *Keyring) IDs() []string {
	set, _ := k.now()
	var ids []string
	for i := range set.Handle.Len() {
		if entry, err := set.Handle.Entry(i); err == nil {
			ids = append(ids, envelope.KeyID(entry.KeyID()))
		}
	}
	return ids
}

// KEK names the key that the keyring is encrypted with.
func (k *Keyring) KEK() string {
	set, _ := k.now()
	return set.KEK
}

// Has tells whether a key is in the keyring; a nil keyring has none.
func (k *Keyring) Has(id string) bool {
	if k == nil {
		return false
	}
	for _, own := range k.IDs() {
		if own == id {
			return true
		}
	}
	return false
}

// find is Has after a look at the file, where another agent may have added the
// key since.
func (k *Keyring) find(ctx context.Context, id string) bool {
	if k == nil || k.Has(id) {
		return k != nil
	}
	set, err := k.file.Open(ctx)
	return err == nil && k.use(set) == nil && k.Has(id)
}

// lack says why there is no such key, for a person.
func (k *Keyring) lack() string {
	if k == nil {
		return "nobody configured: set vault.encryption"
	}
	return "is not in the keyring; was the keyring replaced?"
}

// Size is the number of keys.
func (k *Keyring) Size() int {
	set, _ := k.now()
	return set.Handle.Len()
}

// Rewrap encrypts the keyring with the current KEK, and tells whether another
// one was used until then.
func (k *Keyring) Rewrap(ctx context.Context) (bool, error) {
	set, changed, err := k.file.Rewrap(ctx)
	if err != nil {
		return false, err
	}
	return changed, k.use(set)
}

// Rotate adds a key, which files are encrypted with from then on.
func (k *Keyring) Rotate(ctx context.Context) error {
	set, err := k.file.Add(ctx)
	if err != nil {
		return err
	}
	return k.use(set)
}

// Merge takes in the keys of a copy of the keyring, and tells whether the copy
// lacks any.
func (k *Keyring) Merge(ctx context.Context, copied []byte) (bool, error) {
	set, lacking, err := k.file.Merge(ctx, copied)
	if err != nil {
		return false, err
	}
	return lacking, k.use(set)
}

// Opens opens what was read of the keyring's file; see [envelope.File.Decode] for
// its errors.
func (k *Keyring) Opens(ctx context.Context, data []byte) error {
	_, err := k.file.Decode(ctx, data)
	return err
}

// Snapshot is the keyring as it is now: what is encrypted with it has one key,
// whoever adds another meanwhile.
func (k *Keyring) Snapshot() *Keyring {
	set, primitive := k.now()
	return &Keyring{file: k.file, set: set, primitive: primitive}
}

func (k *Keyring) encrypting(out io.Writer, name string) (io.WriteCloser, error) {
	_, primitive := k.now()
	return primitive.NewEncryptingWriter(out, []byte(name))
}

func (k *Keyring) decrypting(in io.Reader, name string) (io.Reader, error) {
	_, primitive := k.now()
	return primitive.NewDecryptingReader(in, []byte(name))
}
