package envelope

import (
	"bytes"
	"context"
	"fmt"

	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"
	"google.golang.org/protobuf/proto"
)

// Rewrap encrypts the file with the current KEK, if it is not already. The keys
// stay the same, so that nothing that they encrypted needs to be written anew:
// a KEK is replaced in milliseconds, whole or not at all.
func (f File) Rewrap(ctx context.Context) (set *Set, changed bool, err error) {
	err = f.change(ctx, "rewrap", func(old *Set) (*keyset.Handle, error) {
		changed = old.KEK != f.Keys.Current.ID
		if set = old; !changed {
			return nil, nil
		}
		return old.Handle, nil
	}, &set)
	return set, changed, err
}

// Add adds a key, which new data is encrypted with from then on. Older keys stay,
// for what they encrypted.
func (f File) Add(ctx context.Context) (set *Set, err error) {
	err = f.change(ctx, "add", f.Grow, &set)
	return set, err
}

// Merge takes the keys of another copy of the file in: those that one of the two
// lacks. Where the other copy went on to a key that this one lacks, new data gets
// that one; where both did, that of the one that was written last. Lacking tells
// whether the other copy lacked one, or was encrypted with an older KEK.
func (f File) Merge(ctx context.Context, copied []byte) (set *Set, lacking bool, err error) {
	other, err := f.Decode(ctx, copied)
	if err != nil {
		return nil, false, err
	}
	err = f.change(ctx, "add", func(own *Set) (*keyset.Handle, error) {
		set = own
		merged, fresh := union(own, other)
		lacking = len(merged.Key) > other.Handle.Len() || other.KEK != f.Keys.Current.ID || merged.PrimaryKeyId != cleartext(other).PrimaryKeyId
		if !fresh {
			return nil, nil
		}
		data, err := proto.Marshal(merged)
		if err != nil {
			return nil, err
		}
		return insecurecleartextkeyset.Read(keyset.NewBinaryReader(bytes.NewReader(data)))
	}, &set)
	return set, lacking, err
}

// union gives the keys of both, and whether they are others than those of the
// first.
func union(own, other *Set) (*tinkpb.Keyset, bool) {
	merged, theirs := cleartext(own), cleartext(other)
	ahead := has(theirs, merged.PrimaryKeyId) || other.Written.After(own.Written)
	primary := theirs.PrimaryKeyId
	if has(merged, primary) || !ahead {
		primary = merged.PrimaryKeyId
	}
	fresh := primary != merged.PrimaryKeyId
	merged.PrimaryKeyId = primary
	for _, key := range theirs.Key {
		if !has(merged, key.KeyId) {
			merged.Key, fresh = append(merged.Key, key), true
		}
	}
	return merged, fresh
}

func has(set *tinkpb.Keyset, id uint32) bool {
	for _, key := range set.Key {
		if key.KeyId == id {
			return true
		}
	}
	return false
}

// cleartext gives the keys themselves, in memory alone.
func cleartext(set *Set) *tinkpb.Keyset {
	var data bytes.Buffer
	keys := &tinkpb.Keyset{}
	// Neither fails: what was decoded is encoded, and read as it was written.
	if insecurecleartextkeyset.Write(set.Handle, keyset.NewBinaryWriter(&data)) != nil || proto.Unmarshal(data.Bytes(), keys) != nil {
		return &tinkpb.Keyset{}
	}
	return keys
}

// change reads the keys and writes those that next gives, nil: none, while nobody
// else does.
func (f File) change(ctx context.Context, what string, next func(*Set) (*keyset.Handle, error), out **Set) error {
	err := f.locked(ctx, func() error {
		old, err := f.Open(ctx)
		if err != nil {
			return err
		}
		handle, err := next(old)
		if err != nil || handle == nil {
			return err
		}
		set, err := f.write(ctx, f.Path, handle)
		if err != nil {
			return err
		}
		*out = set
		f.tell(ctx, what, set)
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s keyring: %w", what, err)
	}
	return nil
}
