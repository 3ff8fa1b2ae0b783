package envelope

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"

	"github.com/tink-crypto/tink-go/v2/keyset"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
)

const (
	fileFormat   = "vigil-keyring"
	fileVersion  = 1
	maxFileBytes = 1 << 20
	lockTries    = 200
	lockWait     = 50 * time.Millisecond
)

// Use is one use of a KEK, for an audit log. It names keys and shows none.
type Use struct {
	// What is what was done: "open", "make", "rewrap" or "add".
	What string
	// KEK is the id of the key that was used; with "rewrap" the new one.
	KEK string
	// Path is the file whose keys it was used for.
	Path string
	// Key is the id of the key that is used for new data from then on.
	Key string
	// Keys is how many keys the file has.
	Keys int
}

// File is a set of keys on disk, encrypted with a KEK; they never lie there in
// the clear. Programs that share the file, on any machine, may do everything
// here at the same time. All methods are safe for concurrent use.
type File struct {
	// FS writes; Path is where the file lies.
	FS   durable.FS
	Path string
	// Keys has the KEK that encrypts, and those that may still open.
	Keys Keys
	// Template is what fresh keys are.
	Template *tinkpb.KeyTemplate
	Clock    func() time.Time
	// Used is told of each use of a KEK; nil: nobody wants to know.
	Used func(context.Context, Use)
}

// Set is the keys of a file, as they were read.
type Set struct {
	// Handle has the keys.
	Handle *keyset.Handle
	// KEK is the id of the key that the file is encrypted with.
	KEK     string
	Written time.Time
}

// Primary is the id of the key that is used for new data, in hexadecimal.
func (s *Set) Primary() string {
	entry, err := s.Handle.Primary()
	if err != nil {
		return ""
	}
	return KeyID(entry.KeyID())
}

// KeyID is how a key of a set is named.
func KeyID(id uint32) string { return strconv.FormatUint(uint64(id), 16) }

// onDisk is the file's form.
type onDisk struct {
	Format  string          `json:"format"`
	Version int             `json:"version"`
	KEK     string          `json:"kek_id"` // of the key that opens it
	Written time.Time       `json:"written"`
	Keyset  json.RawMessage `json:"keyset"` // Tink's encrypted keyset
}

// Open reads the keys, or makes a first one where there is no file. Of several
// programs that make it at the same time, one wins and all get the same. It
// fails with [fault.Denied] when the file was encrypted with a KEK that is not
// at hand, and with [fault.Corrupt] when it is damaged.
func (f File) Open(ctx context.Context) (*Set, error) {
	for range 2 {
		data, err := os.ReadFile(f.Path)
		if err == nil {
			set, err := f.Decode(ctx, data)
			if err == nil {
				f.tell(ctx, "open", set)
			}
			return set, err
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("open keyring: %w", err)
		}
		if err := f.create(ctx); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make keyring %s: %w", f.Path, err)
		}
	}
	return nil, fault.New(fault.Unavailable, "open keyring: %s appears and goes away again", f.Path)
}

// create writes the file beside itself and links it, which only one of those who
// try can do.
func (f File) create(ctx context.Context) error {
	handle, err := f.Grow(nil)
	if err != nil {
		return err
	}
	beside := f.Path + "." + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatInt(f.Clock().UnixNano(), 36)
	set, err := f.write(ctx, beside, handle)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(beside) }()
	if err := os.Link(beside, f.Path); err != nil {
		return err
	}
	f.tell(ctx, "make", set)
	return nil
}

// Grow gives the keys of a set, which may be nil, and a fresh one that is used for
// new data.
func (f File) Grow(set *Set) (*keyset.Handle, error) {
	manager := keyset.NewManager()
	if set != nil {
		manager = keyset.NewManagerFromHandle(set.Handle)
	}
	id, err := manager.Add(f.Template)
	if err == nil {
		err = manager.SetPrimary(id)
	}
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return manager.Handle()
}

// Decode opens what a file holds, wherever it was read.
func (f File) Decode(ctx context.Context, data []byte) (*Set, error) {
	var file onDisk
	if err := json.Unmarshal(data, &file); err != nil || file.Format != fileFormat || len(data) > maxFileBytes {
		return nil, fault.New(fault.Corrupt, "open keyring: %s is no keyring, or is damaged", f.Path)
	}
	if file.Version != fileVersion {
		return nil, fault.New(fault.Unsupported, "open keyring: %s has version %d; this program reads %d", f.Path, file.Version, fileVersion)
	}
	kek, ok := f.Keys.Find(file.KEK)
	if !ok {
		return nil, fault.New(fault.Denied, "open keyring: %s was encrypted with key %s, and %s is key %s; give the key that it was made with",
			f.Path, file.KEK, f.Keys.Current.Source, f.Keys.Current.ID)
	}
	handle, err := keyset.ReadWithContext(ctx, keyset.NewJSONReader(bytes.NewReader(file.Keyset)), kek, nil)
	if fault.Is(err, fault.Unavailable) || ctx.Err() != nil {
		return nil, fmt.Errorf("open keyring %s: %w", f.Path, err)
	}
	if err != nil {
		return nil, fault.New(fault.Corrupt, "open keyring: %s does not open with its key; it is damaged: %w", f.Path, err)
	}
	return &Set{Handle: handle, KEK: file.KEK, Written: file.Written}, nil
}

// write puts keys into a file, encrypted with the current KEK.
func (f File) write(ctx context.Context, path string, handle *keyset.Handle) (*Set, error) {
	data, set, err := f.Encode(ctx, handle)
	if err != nil {
		return nil, err
	}
	return set, durable.WriteFile(f.FS, path, data, 0o600)
}

// Encode gives keys as a file holds them, encrypted with the current KEK, for
// those who keep them elsewhere.
func (f File) Encode(ctx context.Context, handle *keyset.Handle) ([]byte, *Set, error) {
	var sealed bytes.Buffer
	if err := handle.WriteWithContext(ctx, keyset.NewJSONWriter(&sealed), f.Keys.Current, nil); err != nil {
		return nil, nil, fmt.Errorf("encrypt keyring: %w", err)
	}
	set := &Set{Handle: handle, KEK: f.Keys.Current.ID, Written: f.Clock().UTC()}
	data, err := json.MarshalIndent(onDisk{
		Format: fileFormat, Version: fileVersion, KEK: set.KEK, Written: set.Written, Keyset: sealed.Bytes(),
	}, "", "  ")
	if err != nil {
		return nil, nil, fmt.Errorf("encode keyring: %w", err)
	}
	return append(data, '\n'), set, nil
}

func (f File) tell(ctx context.Context, what string, set *Set) {
	if f.Used != nil {
		f.Used(ctx, Use{What: what, KEK: set.KEK, Path: f.Path, Key: set.Primary(), Keys: set.Handle.Len()})
	}
}

// locked runs a change of the file while nobody else makes one.
func (f File) locked(ctx context.Context, change func() error) error {
	for try := 0; ; try++ {
		unlock, err := durable.Lock(f.Path+".lock", "the keyring")
		if err == nil {
			defer unlock()
			return change()
		}
		if !fault.Is(err, fault.Precondition) || try == lockTries {
			return err
		}
		if !life.Sleep(ctx, lockWait) {
			return ctx.Err()
		}
	}
}
