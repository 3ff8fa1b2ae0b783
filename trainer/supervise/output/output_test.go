package output

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
)

func capture(t *testing.T, c Config) *Capture {
	t.Helper()
	got, err := New(c, "run", testkit.Logger(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = got.Close() })
	return got
}

func TestOutputGoesEverywhereUnchanged(t *testing.T) {
	dir := t.TempDir()
	c := capture(t, Config{Dir: dir, MaxBytes: 1 << 20, Files: 2})
	text := "one\npart\r100%\nnot UTF-8: \xff\xfe\nno newline at the end"
	var out, also bytes.Buffer
	if err := c.Copy(&out, iotest.OneByteReader(strings.NewReader(text)), &also); err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadFile(filepath.Join(dir, "run.log"))
	if err != nil || out.String() != text || also.String() != text || string(kept) != text {
		t.Errorf("passed on %q, shown %q, kept %q, %v", out.String(), also.String(), kept, err)
	}
}

func TestFilesAreBounded(t *testing.T) {
	dir := t.TempDir()
	c := capture(t, Config{Dir: dir, MaxBytes: 1000, Files: 3})
	for range 200 {
		if err := c.Copy(io.Discard, strings.NewReader(strings.Repeat("x", 99)+"\n"), io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	c.Note("attempt %d", 7)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Fatalf("%v, %v; want three files", entries, err)
	}
	for _, e := range entries {
		if info, _ := e.Info(); info.Size() > 1000 || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has %d bytes and mode %s", e.Name(), info.Size(), info.Mode())
		}
	}
	if last, _ := os.ReadFile(filepath.Join(dir, "run.log")); !strings.Contains(string(last), "--- attempt 7\n") {
		t.Errorf("the last file is %q", last)
	}
	if c.dropped != 0 {
		t.Errorf("%d bytes were dropped", c.dropped)
	}
}

func TestWhatCannotBeKeptIsPassedOn(t *testing.T) {
	dir := t.TempDir()
	c := capture(t, Config{Dir: dir, MaxBytes: 10, Files: 1})
	_ = c.file.Close() // as a file system that is gone
	var out bytes.Buffer
	if err := c.Copy(&out, strings.NewReader("hello"), io.Discard); err != nil || out.String() != "hello" || c.dropped != 5 {
		t.Errorf("passed on %q, %v, dropped %d", out.String(), err, c.dropped)
	}
	broken := errors.New("broken pipe")
	var also bytes.Buffer
	if err := c.Copy(iotest.TruncateWriter(failing{broken}, 0), strings.NewReader("hello"), &also); also.String() != "hello" {
		t.Errorf("a terminal that is gone stops the reading: %q, %v", also.String(), err)
	}
	if _, err := New(Config{Dir: dir}, "run", testkit.Logger(t)); !fault.Is(err, fault.Invalid) {
		t.Errorf("no bounds: %v", err)
	}
}

// A file that could not be begun anew is begun when it can, and what was lost
// meanwhile is said at the end.
func TestWhatIsLostIsSaid(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "output")
	var said bytes.Buffer
	c, err := New(Config{Dir: dir, MaxBytes: 10, Files: 2}, "run", slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	show := func(text string) {
		if err := c.Copy(io.Discard, strings.NewReader(text), io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	show("1234567\n")
	if err := os.Rename(dir, dir+".gone"); err != nil {
		t.Fatal(err)
	}
	show("lost to\n") // there is no directory to begin the next file in
	show("it too\n")
	if err := os.Rename(dir+".gone", dir); err != nil {
		t.Fatal(err)
	}
	show("kept\n")
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	show("late\n")
	kept, err := os.ReadFile(filepath.Join(dir, "run.log"))
	if err != nil || string(kept) != "kept\n" {
		t.Errorf("kept is %q, %v", kept, err)
	}
	if text := said.String(); strings.Count(text, "is not kept") != 1 || !strings.Contains(text, `"lost bytes"=15`) {
		t.Errorf("said: %s", text)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestSecretsAndPersonalDataAreMasked(t *testing.T) {
	for in, want := range map[string]string{
		"step 12 loss 0.5":                                "step 12 loss 0.5",
		"wandb api_key=0123456789abcdef":                  "wandb api_key=[secret]",
		`{"password": "hunter 2", "user": "eve"}`:         `{"password": [secret], "user": "eve"}`,
		"AWS_SECRET_ACCESS_KEY=abc/def+ghi":               "AWS_SECRET_ACCESS_KEY=[secret]",
		"key AKIAIOSFODNN7EXAMPLE used":                   "key [secret] used",
		"Authorization: Bearer abcdef0123456789":          "Authorization: Bearer [secret]",
		"git clone https://eve:pw@host/repo":              "git clone https://[secret]@host/repo",
		"HF token hf_abcdefghijklmnopqrstuvwx":            "HF token [secret]",
		"max_tokens: 4096 tokens/s=1234":                  "max_tokens: 4096 tokens/s=1234",
		"eve@example.org logged in from 192.168.1.17":     "[e-mail] logged in from [address]",
		"2001:0db8:0000:0000:0000:ff00:0042:8329 is here": "[address] is here",
		"version 1.2.3 of torch":                          "version 1.2.3 of torch",
	} {
		c := capture(t, Config{Secrets: true, Personal: true})
		var out bytes.Buffer
		if err := c.Copy(&out, iotest.OneByteReader(strings.NewReader(in+"\n")), io.Discard); err != nil || out.String() != want+"\n" {
			t.Errorf("%q became %q, want %q", in, out.String(), want)
		}
	}
	c := capture(t, Config{})
	if got := c.Text("token=abc eve@example.org"); got != "token=abc eve@example.org" {
		t.Errorf("nothing was to be masked: %q", got)
	}
	long := strings.Repeat("x", 3*maxLine)
	c = capture(t, Config{Secrets: true})
	var out bytes.Buffer
	if err := c.Copy(&out, strings.NewReader(long), io.Discard); err != nil || out.Len() != len(long) {
		t.Errorf("a line of %d bytes became %d", len(long), out.Len())
	}
}
