package durable

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/internal/fault"
)

func scanAll(t *testing.T, data []byte) (payloads []string, s *Scanner) {
	t.Helper()
	s = NewScanner(bytes.NewReader(data))
	for {
		ok, err := s.Next()
		if err != nil {
			t.Fatalf("Next: %v", err)
		}
		if !ok {
			return payloads, s
		}
		payloads = append(payloads, string(s.Payload()))
	}
}

func records(payloads ...string) []byte {
	var data []byte
	for _, p := range payloads {
		data = AppendRecord(data, []byte(p))
	}
	return data
}

func TestScannerStepsOverDamage(t *testing.T) {
	big := strings.Repeat("b", 100<<10)
	whole := records("one", "two", "three")
	for _, tc := range []struct {
		name    string
		data    []byte
		want    []string
		skipped int64
		end     int
	}{
		{"whole", whole, []string{"one", "two", "three"}, 0, len(whole)},
		{"empty", nil, nil, 0, 0},
		{"empty payload", records("", "x"), []string{"", "x"}, 0, 25},
		{"torn payload", whole[:len(whole)-2], []string{"one", "two"}, 1, 30},
		{"torn header", whole[:len(whole)-12], []string{"one", "two"}, 1, 30},
		{"flipped payload", flip(whole, 15+12), []string{"one", "three"}, 1, len(whole)},
		{"flipped length", flip(whole, 15+7), []string{"one", "three"}, 1, len(whole)},
		{"flipped magic", flip(whole, 15), []string{"one", "three"}, 1, len(whole)},
		{"rubbish before", append([]byte("rubbish"), records("one")...), []string{"one"}, 1, 22},
		{"big", records("one", big, "two"), []string{"one", big, "two"}, 0, 15*2 + 12 + len(big)},
		{"torn big", records("one", big)[:50<<10], []string{"one"}, 1, 15},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, s := scanAll(t, tc.data)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("payloads (-want +got):\n%s", diff)
			}
			if s.Skipped() != tc.skipped {
				t.Errorf("skipped %d, want %d", s.Skipped(), tc.skipped)
			}
			if s.End() != int64(tc.end) {
				t.Errorf("end %d, want %d", s.End(), tc.end)
			}
		})
	}
}

func flip(data []byte, at int) []byte {
	data = slices.Clone(data)
	data[at] ^= 0x80
	return data
}

func FuzzScanner(f *testing.F) {
	f.Add(records("one", "two"))
	f.Add([]byte(recordMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		payloads, s := scanAll(t, data)
		if s.End() > int64(len(data)) {
			t.Fatalf("end %d lies behind the data (%d bytes)", s.End(), len(data))
		}
		// Whatever was read is read again when it is written anew.
		again, s2 := scanAll(t, records(payloads...))
		if s2.Skipped() != 0 || !slices.Equal(payloads, again) {
			t.Fatalf("%q came back as %q", payloads, again)
		}
	})
}

func TestWriteFileReplacesWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "latest")
	for _, text := range []string{"first, the longer text", "second"} {
		if err := WriteFile(OS{}, path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != text {
			t.Errorf("read %q, %v, want %q", got, err, text)
		}
	}
	if _, err := os.Stat(path + ".partial"); !os.IsNotExist(err) {
		t.Error("the partial file is left behind")
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := Lock(path, "the spool")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(path, "the spool"); !fault.Is(err, fault.Precondition) || fault.HintOf(err) == "" {
		t.Errorf("a second lock: %v", err)
	}
	unlock()
	again, err := Lock(path, "the spool")
	if err != nil {
		t.Fatalf("after unlock: %v", err)
	}
	again()
}
