package seal

import (
	"bytes"
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/envelope"
	"github.com/vigil-ml/vigil/internal/fault"
)

// keyringAt opens the keyring at a path with the key of a number.
func keyringAt(t testing.TB, path string, number byte) *Keyring {
	t.Helper()
	kek, err := envelope.NewKEK(bytes.Repeat([]byte{number}, 32), "test")
	if err != nil {
		t.Fatal(err)
	}
	ring, err := OpenKeyring(t.Context(), envelope.File{
		FS: durable.OS{}, Path: path, Keys: envelope.Keys{Current: kek}, Template: Template(), Clock: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// One agent adds a key; another that shares the keyring and runs since before
// opens what was sealed with it, and seals with its own until it starts anew.
func TestAnotherAgentsKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyring")
	running, other := keyringAt(t, path, 1), keyringAt(t, path, 1)
	old, oldEncoded := encode(t, Codec{Keys: running}, weights(1000), "n")
	if err := other.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	fresh, freshEncoded := encode(t, Codec{Keys: other}, weights(1000), "n")
	if freshEncoded.KeyID == oldEncoded.KeyID || freshEncoded.KeyID != other.ID() || running.Has(freshEncoded.KeyID) {
		t.Fatalf("keys %s and %s, the new one is %s", oldEncoded.KeyID, freshEncoded.KeyID, other.ID())
	}
	for _, ring := range []*Keyring{running, other} {
		for _, f := range []struct {
			data []byte
			e    Encoded
		}{{old, oldEncoded}, {fresh, freshEncoded}} {
			if err := (Codec{Keys: ring}).Decode(t.Context(), io.Discard, bytes.NewReader(f.data), f.e, "n"); err != nil {
				t.Errorf("a file of key %s: %v", f.e.KeyID, err)
			}
		}
	}
	if running.ID() != other.ID() || running.Size() != 2 {
		t.Errorf("after it looked: key %s of %d", running.ID(), running.Size())
	}
}

// A checkpoint's files have one key, whoever adds another meanwhile.
func TestSnapshotKeepsItsKey(t *testing.T) {
	ring := keyring(t)
	codec := Codec{Keys: ring}.Snapshot()
	before := ring.ID()
	if err := ring.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, e := encode(t, codec, weights(100), "n"); e.KeyID != before || ring.ID() == before {
		t.Errorf("sealed with %s; it was %s and is %s", e.KeyID, before, ring.ID())
	}
	if err := (Codec{Keys: codec.Keys}).Decode(t.Context(), io.Discard, bytes.NewReader(nil), Encoded{KeyID: "ff"}, "n"); !fault.Is(err, fault.Denied) {
		t.Errorf("a key that nobody has: %v", err)
	}
}
