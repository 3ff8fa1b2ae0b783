// Package blobtest is what every second store must do. A store's test opens it
// and calls [Run].
package blobtest

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/agent/vault/blob"
	"github.com/vigil-ml/vigil/internal/fault"
)

// LargeBytes is the size of an object that takes several parts where a store
// cuts objects into parts of 5 MiB.
const LargeBytes = 12<<20 + 345

// Run runs the suite; open gives an empty store.
func Run(t *testing.T, open func(*testing.T) blob.Store) {
	for name, test := range map[string]func(*testing.T, blob.Store){
		"round trip": testRoundTrip, "replace": testReplace, "list": testList, "missing": testMissing,
		"sizes": testSizes, "large": testLarge, "keys": testKeys, "canceled": testCanceled,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func put(t *testing.T, s blob.Store, key, content string) {
	t.Helper()
	if err := s.Put(t.Context(), key, strings.NewReader(content), int64(len(content))); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

func get(t *testing.T, s blob.Store, key string) string {
	t.Helper()
	r, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	defer func() { _ = r.Close() }()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("read %s: %v", key, err)
	}
	return string(data)
}

func testRoundTrip(t *testing.T, s blob.Store) {
	for key, content := range map[string]string{"a": "content", "run/ck/rank-00000/files/deep/er.bin": "\x00\xff", "empty": "", "sp ace+ü": "x"} {
		put(t, s, key, content)
		if got := get(t, s, key); got != content {
			t.Errorf("%s: %q, want %q", key, got, content)
		}
	}
}

func testReplace(t *testing.T, s blob.Store) {
	put(t, s, "k", "first, and longer")
	put(t, s, "k", "second")
	if got := get(t, s, "k"); got != "second" {
		t.Errorf("replaced: %q", got)
	}
}

func testList(t *testing.T, s blob.Store) {
	for _, key := range []string{"run/b/2", "run/a", "run/b/10", "other", "run-2/a"} {
		put(t, s, key, key)
	}
	want := []blob.Object{{Key: "run/a", SizeBytes: 5}, {Key: "run/b/10", SizeBytes: 8}, {Key: "run/b/2", SizeBytes: 7}}
	got, err := s.List(t.Context(), "run/")
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("list: %v (-want +got):\n%s", err, diff)
	}
	if got, err := s.List(t.Context(), "nothing/"); err != nil || len(got) > 0 {
		t.Errorf("list of nothing: %v, %v", got, err)
	}
}

func testMissing(t *testing.T, s blob.Store) {
	if _, err := s.Get(t.Context(), "none"); !fault.Is(err, fault.NotFound) {
		t.Errorf("get: %v", err)
	}
	put(t, s, "k", "x")
	for range 2 {
		if err := s.Delete(t.Context(), "k"); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	if _, err := s.Get(t.Context(), "k"); !fault.Is(err, fault.NotFound) {
		t.Errorf("get what was deleted: %v", err)
	}
}

func testSizes(t *testing.T, s blob.Store) {
	for name, size := range map[string]int64{"fewer": 9, "more": 3} {
		if err := s.Put(t.Context(), name, strings.NewReader("12345"), size); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s bytes than announced: %v", name, err)
		}
		if _, err := s.Get(t.Context(), name); !fault.Is(err, fault.NotFound) {
			t.Errorf("%s bytes than announced are kept: %v", name, err)
		}
	}
}

func testLarge(t *testing.T, s blob.Store) {
	data := make([]byte, LargeBytes)
	source := rand.New(rand.NewPCG(1, 2))
	for i := range data {
		data[i] = byte(source.Uint32())
	}
	if err := s.Put(t.Context(), "large", bytes.NewReader(data), LargeBytes); err != nil {
		t.Fatal(err)
	}
	if got := get(t, s, "large"); got != string(data) {
		t.Errorf("%d bytes came back as %d others", len(data), len(got))
	}
	if err := s.Put(t.Context(), "short", bytes.NewReader(data[:LargeBytes-1]), LargeBytes); !fault.Is(err, fault.Invalid) {
		t.Errorf("a large one that is short: %v", err)
	}
	if _, err := s.Get(t.Context(), "short"); !fault.Is(err, fault.NotFound) {
		t.Errorf("a large one that is short is kept: %v", err)
	}
}

func testKeys(t *testing.T, s blob.Store) {
	for _, key := range []string{"", "/a", "a/", "a//b", "../a", "a/../b", "./a", strings.Repeat("x", 1025)} {
		if err := s.Put(t.Context(), key, strings.NewReader(""), 0); !fault.Is(err, fault.Invalid) {
			t.Errorf("put %.20q: %v", key, err)
		}
	}
}

func testCanceled(t *testing.T, s blob.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Put(ctx, "k", strings.NewReader("x"), 1); err == nil {
		t.Error("a put whose caller gave up succeeded")
	}
	if _, err := s.Get(t.Context(), "k"); !fault.Is(err, fault.NotFound) {
		t.Errorf("it is kept: %v", err)
	}
}
