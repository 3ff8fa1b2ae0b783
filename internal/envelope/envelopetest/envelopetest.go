// Package envelopetest is what every key that encrypts keys must do. A test of
// one opens it and calls [Run].
package envelopetest

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/vigil-ml/vigil/internal/envelope"
)

// Run runs the suite. Open gives a key by its number: the same key for the same
// number, as after a restart of the program.
func Run(t *testing.T, open func(t *testing.T, number byte) envelope.KEK) {
	for name, test := range map[string]func(*testing.T, envelope.KEK, envelope.KEK){
		"round trip": testRoundTrip, "names": testNames, "damage": testDamage, "place": testPlace,
		"hides": testHides, "canceled": testCanceled, "concurrent": testConcurrent,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t, 1), open(t, 2)) })
	}
	t.Run("opened again", func(t *testing.T) {
		sealed := encrypt(t, open(t, 1), []byte("keyset"), nil)
		if got, err := open(t, 1).DecryptWithContext(t.Context(), sealed, nil); err != nil || string(got) != "keyset" {
			t.Errorf("after a restart: %q, %v", got, err)
		}
	})
}

func encrypt(t *testing.T, kek envelope.KEK, plaintext, associated []byte) []byte {
	t.Helper()
	sealed, err := kek.EncryptWithContext(t.Context(), plaintext, associated)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func testRoundTrip(t *testing.T, kek, _ envelope.KEK) {
	for _, size := range []int{0, 1, 32, 5000, 64 << 10} {
		plaintext := bytes.Repeat([]byte{'k'}, size)
		got, err := kek.DecryptWithContext(t.Context(), encrypt(t, kek, plaintext, []byte("a")), []byte("a"))
		if err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("%d bytes come back as %d, %v", size, len(got), err)
		}
	}
}

func testNames(t *testing.T, kek, other envelope.KEK) {
	if kek.ID == "" || kek.Source == "" || kek.ID == other.ID {
		t.Errorf("two keys are %q of %q and %q", kek.ID, kek.Source, other.ID)
	}
	if got, err := other.DecryptWithContext(t.Context(), encrypt(t, kek, []byte("keyset"), nil), nil); err == nil {
		t.Errorf("another key opens it: %q", got)
	}
}

func testDamage(t *testing.T, kek, _ envelope.KEK) {
	sealed := encrypt(t, kek, []byte("keyset"), nil)
	step := max(1, len(sealed)/16) // a key may be a program, and slow
	for at := 0; at < len(sealed); at += step {
		damaged := bytes.Clone(sealed)
		damaged[at] ^= 0x10
		if got, err := kek.DecryptWithContext(t.Context(), damaged, nil); err == nil {
			t.Errorf("byte %d of %d is flipped, and it opens: %q", at, len(sealed), got)
		}
	}
	for _, short := range [][]byte{nil, sealed[:1], sealed[:len(sealed)/2], sealed[:len(sealed)-1]} {
		if got, err := kek.DecryptWithContext(t.Context(), short, nil); err == nil {
			t.Errorf("%d of %d bytes open: %q", len(short), len(sealed), got)
		}
	}
}

func testPlace(t *testing.T, kek, _ envelope.KEK) {
	sealed := encrypt(t, kek, []byte("keyset"), []byte("vault/a"))
	for _, place := range []string{"", "vault/b"} {
		if got, err := kek.DecryptWithContext(t.Context(), sealed, []byte(place)); err == nil {
			t.Errorf("what belongs to vault/a opens as %q: %q", place, got)
		}
	}
}

func testHides(t *testing.T, kek, _ envelope.KEK) {
	plaintext := []byte("a secret of some length, to be seen at once")
	first, second := encrypt(t, kek, plaintext, nil), encrypt(t, kek, plaintext, nil)
	if bytes.Contains(first, plaintext[:8]) || bytes.Equal(first, second) {
		t.Errorf("what is encrypted shows what it is: %q, %q", first, second)
	}
}

func testCanceled(t *testing.T, kek, _ envelope.KEK) {
	sealed := encrypt(t, kek, []byte("keyset"), nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := kek.EncryptWithContext(ctx, []byte("keyset"), nil); err == nil {
		t.Error("it encrypts for who has gone")
	}
	if _, err := kek.DecryptWithContext(ctx, sealed, nil); err == nil {
		t.Error("it decrypts for who has gone")
	}
}

func testConcurrent(t *testing.T, kek, _ envelope.KEK) {
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			want := fmt.Sprint("keyset ", i)
			sealed, err := kek.EncryptWithContext(t.Context(), []byte(want), nil)
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := kek.DecryptWithContext(t.Context(), sealed, nil); err != nil || string(got) != want {
				t.Errorf("%q, %v; want %q", got, err, want)
			}
		})
	}
	all.Wait()
}
