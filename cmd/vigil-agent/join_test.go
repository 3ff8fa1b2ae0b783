package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestTheTokenIsNotShown: a token in the environment is used, and never shown.
func TestTheTokenIsNotShown(t *testing.T) {
	t.Setenv("VIGIL_JOIN_TOKEN", "@/a-secret-place")
	for _, args := range [][]string{{"--help"}, {"--no-such-flag"}, {}} {
		var stdout, stderr bytes.Buffer
		join(args, &stdout, &stderr)
		if text := stdout.String() + stderr.String(); text == "" || strings.Contains(text, "secret") {
			t.Errorf("join %v says:\n%s", args, text)
		}
	}
	var stdout, stderr bytes.Buffer
	if code := join([]string{"127.0.0.1:1"}, &stdout, &stderr); code == 0 || !strings.Contains(stderr.String(), "read token: open /a-secret-place") {
		t.Errorf("the token of the environment is not used: exit code %d, %s", code, &stderr)
	}
}
