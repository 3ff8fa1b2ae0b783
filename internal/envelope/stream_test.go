package envelope_test

import (
	"bufio"
	"bytes"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/vigil-ml/vigil/internal/envelope"
	"github.com/vigil-ml/vigil/internal/fault"
)

// streamOf seals a text.
func streamOf(t testing.TB, keys envelope.Keys, text []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := keys.SealTo(t.Context(), &out, "test")
	if err == nil {
		_, err = w.Write(text)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func readStream(t testing.TB, keys envelope.Keys, stream []byte, purpose string) ([]byte, error) {
	t.Helper()
	r, err := keys.OpenFrom(t.Context(), bufio.NewReader(bytes.NewReader(stream)), purpose)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// TestStreams: what was sealed opens with its outer key, for what it is, whole and
// unchanged, and else not at all; the outer key can be replaced.
func TestStreams(t *testing.T) {
	first, second := envelope.Keys{Current: local(t, 1)}, envelope.Keys{Current: local(t, 2)}
	text := make([]byte, 3<<20)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range text {
		text[i] = byte(rng.Uint32())
	}
	stream := streamOf(t, first, text)
	if got, err := readStream(t, first, stream, "test"); err != nil || !bytes.Equal(got, text) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	if !envelope.Sealed(bufio.NewReader(bytes.NewReader(stream))) || envelope.Sealed(bufio.NewReader(bytes.NewReader(text))) {
		t.Error("what is sealed is not told from what is not")
	}
	if _, err := readStream(t, second, stream, "test"); !fault.Is(err, fault.Denied) {
		t.Errorf("with another outer key: %v", err)
	}
	if _, err := readStream(t, first, text, "test"); !fault.Is(err, fault.Corrupt) {
		t.Errorf("what is no stream: %v", err)
	}
	if _, err := readStream(t, first, stream, "something else"); err == nil {
		t.Error("it opens as something else")
	}
	begin := bytes.IndexByte(stream, '\n') + 1
	for range 20 {
		changed := bytes.Clone(stream)
		changed[begin+rng.IntN(len(stream)-begin)] ^= 1 << rng.IntN(8)
		if _, err := readStream(t, first, changed, "test"); err == nil {
			t.Error("a change was not found")
		}
		if _, err := readStream(t, first, stream[:begin+rng.IntN(len(stream)-begin)], "test"); err == nil {
			t.Error("that the end is missing was not found")
		}
	}

	var out bytes.Buffer
	both := envelope.Keys{Current: second.Current, Previous: []envelope.KEK{first.Current}}
	before, err := both.RewrapStream(t.Context(), &out, bufio.NewReader(bytes.NewReader(stream)))
	if err != nil || before != first.Current.ID {
		t.Errorf("rewrapped from %s, %v", before, err)
	}
	if got, err := readStream(t, second, out.Bytes(), "test"); err != nil || !bytes.Equal(got, text) {
		t.Errorf("with the new outer key: %d bytes, %v", len(got), err)
	}
	if _, err := readStream(t, first, out.Bytes(), "test"); !fault.Is(err, fault.Denied) {
		t.Errorf("with the one before: %v", err)
	}
}

// FuzzOpenStream: whatever is given as a stream is refused, or is what was sealed.
func FuzzOpenStream(f *testing.F) {
	keys := envelope.Keys{Current: local(f, 1)}
	good := streamOf(f, keys, []byte("what was sealed"))
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add([]byte(`{"format":"vigil-sealed","version":2}` + "\n"))
	f.Add([]byte(`{"format":"vigil-sealed"`))
	f.Fuzz(func(t *testing.T, stream []byte) {
		if got, err := readStream(t, keys, stream, "test"); err == nil && string(got) != "what was sealed" {
			t.Errorf("%q was opened as %q", stream, got)
		}
	})
}
