package serve_test

import (
	"testing"

	"github.com/vigil-ml/vigil/internal/serve"
)

func TestLoopback(t *testing.T) {
	for address, right := range map[string]bool{
		"127.0.0.1:8080":   true,
		"127.8.9.1:0":      true,
		"[::1]:8080":       true,
		"localhost:8080":   true,
		":8080":            false,
		"0.0.0.0:8080":     false,
		"[::]:8080":        false,
		"192.0.2.1:8080":   false,
		"example.org:8080": false,
		"127.0.0.1":        false,
		"127.0.0.1:":       false,
		"":                 false,
	} {
		if wrong := serve.Loopback(address); (wrong == "") != right {
			t.Errorf("Loopback(%q) = %q", address, wrong)
		}
	}
}
