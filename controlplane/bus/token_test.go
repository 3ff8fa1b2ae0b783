package bus

import (
	"strings"
	"testing"
)

func TestToken(t *testing.T) {
	tests := map[string]string{
		"":            "=",
		"=":           "=3D",
		"node-1_A":    "node-1_A",
		"gpu.example": "gpu=2Eexample",
		"*":           "=2A",
		">":           "=3E",
		"a b\n":       "a=20b=0A",
		"ü":           "=C3=BC",
	}
	for name, want := range tests {
		if got := token(name); got != want {
			t.Errorf("token(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestUntokenRefuses(t *testing.T) {
	for _, text := range []string{"", "a.b", "=4", "=4G", "=41", "=2e", "a=", "==", "ü"} {
		if name, err := untoken(text); err == nil {
			t.Errorf("untoken(%q) = %q, want an error", text, name)
		}
	}
	for _, subject := range []string{"vigil.event.a", "vigil.event.=4.r"} {
		if node, _, err := (layout{1}).node(subject); err == nil {
			t.Errorf("layout{1}.node(%q) = %q, want an error", subject, node)
		}
	}
}

// FuzzToken holds that a token is one NATS token and that a name comes back:
// then different names have different tokens.
func FuzzToken(f *testing.F) {
	for _, name := range []string{"", "=", "a.b", "\x00\xff", "node-1", "=2E"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		text := token(name)
		if text == "" || strings.ContainsAny(text, ".*> \t\r\n\x00") {
			t.Fatalf("token(%q) = %q is not a token", name, text)
		}
		if back, err := untoken(text); err != nil || back != name {
			t.Fatalf("untoken(token(%q)) = %q, %v", name, back, err)
		}
		if back, err := untoken(name); err == nil && token(back) != name {
			t.Fatalf("untoken(%q) = %q, whose token is %q", name, back, token(back))
		}
	})
}
