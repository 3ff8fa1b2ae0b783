package seal

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/zeebo/blake3"

	"github.com/vigil-ml/vigil/internal/fault"
)

// weights is bytes that do not shrink; text is bytes that do.
func weights(size int) []byte {
	data := make([]byte, size)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(data)
	return data
}

func text(size int) []byte {
	return bytes.Repeat([]byte("learning rate 0.001\n"), size/20+1)[:size]
}

func keyring(t testing.TB) *Keyring { return keyringAt(t, t.TempDir()+"/keyring", 1) }

// codecs is every way to store a file.
func codecs(t testing.TB) map[string]Codec {
	ring := keyring(t)
	return map[string]Codec{
		"plain": {}, "compressed": {Compress: true}, "encrypted": {Keys: ring}, "both": {Keys: ring, Compress: true},
	}
}

func encode(t testing.TB, c Codec, content []byte, name string) ([]byte, Encoded) {
	t.Helper()
	var out bytes.Buffer
	e, err := c.Encode(t.Context(), &out, bytes.NewReader(content), name)
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), e
}

func TestRoundTrip(t *testing.T) {
	for name, codec := range codecs(t) {
		for _, size := range []int{0, 1, 100, chunkBytes - 1, chunkBytes, chunkBytes + 1, 3*chunkBytes + 17} {
			for kind, content := range map[string][]byte{"weights": weights(size), "text": text(size)} {
				t.Run(fmt.Sprintf("%s %d of %s", name, size, kind), func(t *testing.T) { roundTrip(t, codec, content, kind) })
			}
		}
	}
}

func roundTrip(t *testing.T, codec Codec, content []byte, kind string) {
	stored, e := encode(t, codec, content, "run/ckpt/rank-0/w")
	if e.SizeBytes != int64(len(content)) || e.StoredBytes != int64(len(stored)) {
		t.Fatalf("%+v of %d bytes stored as %d", e, len(content), len(stored))
	}
	if sum := blake3.Sum256(stored); e.BLAKE3 != hex.EncodeToString(sum[:]) {
		t.Errorf("the digest %s is not that of what is stored", e.BLAKE3)
	}
	if small := codec.Compress && kind == "text" && len(content) >= 100; (e.Compression == "zstd") != small {
		t.Errorf("%d bytes of %s have compression %q", len(content), kind, e.Compression)
	}
	if e.Plain() != bytes.Equal(stored, content) && len(content) > 0 {
		t.Errorf("plain is %v", e.Plain())
	}
	if codec.Keys != nil && len(content) >= 100 && bytes.Contains(stored, content[:50]) {
		t.Error("the content can be read in what is stored")
	}
	if _, err := io.Copy(io.Discard, Checked(bytes.NewReader(stored), e)); err != nil {
		t.Error(err)
	}
	var back bytes.Buffer
	if err := codec.Decode(t.Context(), &back, bytes.NewReader(stored), e, "run/ckpt/rank-0/w"); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(back.Bytes(), content) {
		t.Error("what is decoded is not what was encoded")
	}
}

// TestDamageIsFound changes, swaps, repeats and cuts what is stored.
func TestDamageIsFound(t *testing.T) {
	source := rand.New(rand.NewPCG(1, 1))
	for name, codec := range codecs(t) {
		stored, e := encode(t, codec, text(2*chunkBytes+100), "name")
		for i := range 60 {
			damaged := bytes.Clone(stored)
			switch at := source.IntN(len(damaged)); i % 4 {
			case 0:
				damaged[at] ^= 1 << source.IntN(8)
			case 1:
				damaged = damaged[:at]
			case 2:
				damaged = append(damaged, damaged[:1+at%100]...)
			case 3:
				other := (at + 1 + source.IntN(len(damaged)-1)) % len(damaged)
				if damaged[at] == damaged[other] {
					continue
				}
				damaged[at], damaged[other] = damaged[other], damaged[at]
			}
			if _, err := io.Copy(io.Discard, Checked(bytes.NewReader(damaged), e)); !fault.Is(err, fault.Corrupt) {
				t.Fatalf("%s, damage %d: Checked = %v", name, i, err)
			}
			if err := codec.Decode(t.Context(), io.Discard, bytes.NewReader(damaged), e, "name"); !fault.Is(err, fault.Corrupt) {
				t.Fatalf("%s, damage %d: Decode = %v", name, i, err)
			}
		}
	}
}

// TestForgeryIsFound has an attacker who can write the manifest too, but has no
// key: digests then agree, and the encryption must tell.
func TestForgeryIsFound(t *testing.T) {
	codec := Codec{Keys: keyring(t)}
	stored, e := encode(t, codec, weights(3*chunkBytes), "run/a/rank-0/w")
	forge := func(data []byte) Encoded {
		sum := blake3.Sum256(data)
		f := e
		f.StoredBytes, f.BLAKE3 = int64(len(data)), hex.EncodeToString(sum[:])
		return f
	}
	flipped := bytes.Clone(stored)
	flipped[len(flipped)/2] ^= 1
	swapped := bytes.Clone(stored)
	copy(swapped[chunkBytes:], stored[2*chunkBytes:3*chunkBytes])
	for what, data := range map[string][]byte{
		"a flipped bit": flipped, "a segment in another's place": swapped, "the last segment left off": stored[:2*chunkBytes],
	} {
		if err := codec.Decode(t.Context(), io.Discard, bytes.NewReader(data), forge(data), "run/a/rank-0/w"); !fault.Is(err, fault.Corrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := codec.Decode(t.Context(), io.Discard, bytes.NewReader(stored), e, "run/b/rank-0/w"); !fault.Is(err, fault.Corrupt) {
		t.Errorf("a file in another's place: %v", err)
	}
}

func TestWithoutTheKey(t *testing.T) {
	stored, e := encode(t, Codec{Keys: keyring(t)}, weights(100), "name")
	for what, codec := range map[string]Codec{"no keyring": {}, "another keyring": {Keys: keyring(t)}} {
		err := codec.Decode(t.Context(), io.Discard, bytes.NewReader(stored), e, "name")
		if !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), e.KeyID) {
			t.Errorf("%s: %v, want a denial that names the key", what, err)
		}
	}
}

func TestDecodeOfWhatIsNotKnown(t *testing.T) {
	stored, e := encode(t, Codec{}, weights(100), "name")
	e.Compression = "brotli"
	if err := (Codec{}).Decode(t.Context(), io.Discard, bytes.NewReader(stored), e, "name"); !fault.Is(err, fault.Unsupported) {
		t.Errorf("an unknown compression: %v", err)
	}
	stored, e = encode(t, Codec{Compress: true}, text(1000), "name")
	e.SizeBytes = 10
	if err := (Codec{}).Decode(t.Context(), io.Discard, bytes.NewReader(stored), e, "name"); !fault.Is(err, fault.Corrupt) {
		t.Errorf("more content than promised: %v", err)
	}
}

func TestErrorsOfReaderAndWriter(t *testing.T) {
	broken := errors.New("broken")
	for name, codec := range codecs(t) {
		for _, size := range []int{10, 2 * chunkBytes} {
			in := io.MultiReader(bytes.NewReader(weights(size)), iotest.ErrReader(broken))
			if _, err := codec.Encode(t.Context(), io.Discard, in, "n"); !errors.Is(err, broken) {
				t.Errorf("%s: Encode of a broken reader = %v", name, err)
			}
			if _, err := codec.Encode(t.Context(), failing{broken}, bytes.NewReader(weights(size)), "n"); !errors.Is(err, broken) {
				t.Errorf("%s: Encode to a broken writer = %v", name, err)
			}
			stored, e := encode(t, codec, weights(size), "n")
			if err := codec.Decode(t.Context(), failing{broken}, bytes.NewReader(stored), e, "n"); !errors.Is(err, broken) || fault.Is(err, fault.Corrupt) {
				t.Errorf("%s: Decode to a broken writer = %v", name, err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		stored, e := encode(t, codec, weights(2*chunkBytes), "n")
		if err := codec.Decode(ctx, io.Discard, bytes.NewReader(stored), e, "n"); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: Decode after the end = %v", name, err)
		}
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func BenchmarkEncode(b *testing.B) {
	content := weights(64 << 20)
	for _, name := range []string{"plain", "encrypted", "both"} {
		b.Run(name, func(b *testing.B) {
			codec := codecs(b)[name]
			b.SetBytes(int64(len(content)))
			for b.Loop() {
				if _, err := codec.Encode(context.Background(), io.Discard, bytes.NewReader(content), "n"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
