package envelope_test

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vigil-ml/vigil/internal/envelope"
	"github.com/vigil-ml/vigil/internal/envelope/envelopetest"
	"github.com/vigil-ml/vigil/internal/fault"
)

func local(t testing.TB, number byte) envelope.KEK {
	t.Helper()
	kek, err := envelope.NewKEK(bytes.Repeat([]byte{number}, 32), "test")
	if err != nil {
		t.Fatal(err)
	}
	return kek
}

// service stands for a key management service with one key: what it gives opens
// with the same key, and only whole. It hides nothing.
const service = `#!/bin/sh
key=$1 verb=$2 text=$(cat)
sum() { printf %s "$key $1" | sha256sum | cut -c1-64; }
case $verb in
encrypt) printf '%s.%s\n' "$(sum "$text")" "$text" ;;
decrypt)
	plain=${text#*.}
	[ "${text%%.*}" = "$(sum "$plain")" ] || { echo "it is not of $key" >&2; exit 1; }
	echo "$plain" ;;
esac
`

func program(t testing.TB, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kms")
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestKeys(t *testing.T) {
	t.Run("bytes", func(t *testing.T) {
		envelopetest.Run(t, func(t *testing.T, number byte) envelope.KEK { return local(t, number) })
	})
	path := program(t, service)
	t.Run("command", func(t *testing.T) {
		envelopetest.Run(t, func(t *testing.T, number byte) envelope.KEK {
			name := "site-key-" + string('0'+rune(number))
			kek, err := envelope.Source{Command: []string{path, name}, KeyID: name}.KEK(nil)
			if err != nil {
				t.Fatal(err)
			}
			return kek
		})
	})
}

func TestCommandFails(t *testing.T) {
	for what, c := range map[string]struct{ script, want string }{
		"says why":      {"echo no such key >&2; exit 3", "exit status 3: no such key"},
		"says nothing":  {"exit 0", "it wrote nothing"},
		"several lines": {"echo a; echo b", "more than one line"},
		"too much":      {"yes | head -c 20000", "wrote too much"},
	} {
		kek, err := envelope.OfCommand("k", []string{program(t, "#!/bin/sh\ncat >/dev/null\n"+c.script+"\n")})
		if err != nil {
			t.Fatal(err)
		}
		_, err = kek.EncryptWithContext(t.Context(), []byte("keyset"), nil)
		if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
	kek, err := envelope.OfCommand("k", []string{"/no/such/program"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kek.EncryptWithContext(t.Context(), nil, nil); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("no program: %v", err)
	}
}

func TestLocalKeys(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	generated := envelope.Generate()
	kek, err := envelope.OfFile(write("good", generated, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	ofEnv, err := envelope.OfEnv("K", func(string) string { return strings.TrimSpace(generated) })
	if err != nil || ofEnv.ID != kek.ID {
		t.Errorf("one key has the ids %s and %s, %v", kek.ID, ofEnv.ID, err)
	}
	secret := "c2VjcmV0c2VjcmV0"
	for what, c := range map[string]struct {
		path string
		kind fault.Kind
	}{
		"readable by others": {write("open", generated, 0o644), fault.Denied},
		"too short":          {write("short", secret, 0o600), fault.Invalid},
		"not base64":         {write("text", secret+"!", 0o600), fault.Invalid},
	} {
		_, err := envelope.OfFile(c.path)
		if !fault.Is(err, c.kind) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if os.Getuid() == 0 { // only root can give a file away
		foreign := write("foreign", generated, 0o600)
		if err := os.Chown(foreign, 64001, -1); err != nil {
			t.Fatal(err)
		}
		if _, err := envelope.OfFile(foreign); !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "run: chown 0 "+foreign) {
			t.Errorf("another user's key file: %v", err)
		}
	}
	if _, err := envelope.OfEnv("K", func(string) string { return "" }); !fault.Is(err, fault.NotFound) {
		t.Errorf("no variable: %v", err)
	}
	if _, err := envelope.OfFile(filepath.Join(dir, "none")); err == nil {
		t.Error("a key file that is not there is taken")
	}
	if raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(generated)); err != nil || len(raw) != 32 || envelope.Generate() == generated {
		t.Errorf("generated %q", generated)
	}
}

func TestSourceCheck(t *testing.T) {
	for want, source := range map[string]envelope.Source{
		"":           {},
		"key_env":    {KeyFile: "f", KeyEnv: "E"},
		"command":    {KeyFile: "f", Command: []string{"c"}, KeyID: "k"},
		"key_id":     {Command: []string{"c"}},
		"key_id ":    {Command: []string{"c"}, KeyID: "a b"},
		"key_id  ":   {KeyFile: "f", KeyID: "k"},
		"command ":   {Command: []string{""}, KeyID: "k"},
		" ":          {Command: []string{"c", "arg"}, KeyID: "aws:alias/vigil"},
		"key_env   ": {KeyFile: "f", KeyEnv: "E", KeyID: ""},
	} {
		var keys []string
		source.Check(func(key, _ string, _ ...any) { keys = append(keys, key) })
		if got := strings.Join(keys, " "); got != strings.TrimSpace(want) && !strings.HasPrefix(got, strings.TrimSpace(want)+" ") {
			t.Errorf("%+v: mistakes in %q, want %q", source, got, want)
		}
	}
}
