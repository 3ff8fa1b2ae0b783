package sysfile

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func write(t testing.TB, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadGivesTheWholeFile(t *testing.T) {
	var r Reader
	for _, size := range []int{0, 1, 511, 512, 4095, 4096, 4097, 8191, 8192, 8193, 100_000, 3} {
		want := bytes.Repeat([]byte("x"), size)
		got, err := r.Read(write(t, want))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got %d, %v", size, len(got), err)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	var r Reader
	if _, err := r.Read(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := r.Read(t.TempDir()); err == nil {
		t.Error("a directory was read")
	}
	if _, err := r.Read(write(t, make([]byte, maxBytes+1))); err == nil {
		t.Error("a file above the bound was read")
	}
}

func TestReadOfTheMachine(t *testing.T) {
	var r Reader
	got, err := r.Read("/proc/cpuinfo")
	want, _ := os.ReadFile("/proc/cpuinfo")
	if err != nil || len(got) == 0 || bytes.Count(got, []byte("processor")) != bytes.Count(want, []byte("processor")) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}

func TestUint(t *testing.T) {
	for in, want := range map[string]uint64{"0": 0, "42": 42, "18446744073709551615": 1<<64 - 1} {
		if got, ok := Uint([]byte(in)); got != want || !ok {
			t.Errorf("%q: %d, %v", in, got, ok)
		}
	}
	for _, in := range []string{"", "-1", "1x", "max", "18446744073709551616", "99999999999999999999", "123456789012345678901"} {
		if got, ok := Uint([]byte(in)); ok {
			t.Errorf("%q: %d", in, got)
		}
	}
	var r Reader
	if got, ok := r.Uint(write(t, []byte("17\n"))); got != 17 || !ok {
		t.Errorf("file: %d, %v", got, ok)
	}
	if _, ok := r.Uint(write(t, []byte("max\n"))); ok {
		t.Error("a file without a number was read as one")
	}
}

func TestCutting(t *testing.T) {
	var lines []string
	for line := range Lines([]byte("a\n\nb c\nlast")) {
		lines = append(lines, string(line))
	}
	if diff := cmp.Diff([]string{"a", "", "b c", "last"}, lines); diff != "" {
		t.Error(diff)
	}
	var fields [3][]byte
	for in, want := range map[string]int{"": 0, "  ": 0, " a\tb ": 2, "a b c d": 3} {
		if got := Fields([]byte(in), fields[:]); got != want {
			t.Errorf("%q: %d fields, want %d", in, got, want)
		}
	}
	if Fields([]byte(" a\tb "), fields[:]); string(fields[0]) != "a" || string(fields[1]) != "b" {
		t.Errorf("fields %q", fields)
	}
}

func TestNames(t *testing.T) {
	dir := t.TempDir()
	var want []string
	for i := range 300 { // more than one read of the directory
		name := "a-name-that-is-rather-long-" + strconv.Itoa(i)
		want = append(want, name)
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var r Reader
	got, err := r.Names(dir)
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v, %s", err, diff)
	}
	if n, ok := r.Count(dir); n != 300 || !ok {
		t.Errorf("Count = %d, %v", n, ok)
	}
	if _, ok := r.Count(dir + "/none"); ok {
		t.Error("a directory that is not there was counted")
	}
}

func FuzzUint(f *testing.F) {
	f.Add([]byte("18446744073709551616"))
	f.Fuzz(func(t *testing.T, in []byte) {
		got, ok := Uint(in)
		want, err := strconv.ParseUint(string(in), 10, 64)
		if ok && (err != nil || got != want) {
			t.Errorf("%q: %d, %d %v", in, got, want, err)
		}
	})
}

func BenchmarkRead(b *testing.B) {
	var r Reader
	for name, read := range map[string]func() error{
		"sysfile": func() error { _, err := r.Read("/proc/meminfo"); return err },
		"os":      func() error { _, err := os.ReadFile("/proc/meminfo"); return err },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := read(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
