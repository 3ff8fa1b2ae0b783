package serve_test

import (
	"strings"
	"testing"

	"github.com/vigil-ml/vigil/internal/fault"
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

func TestListenSaysWhatToDo(t *testing.T) {
	l, err := serve.Listen("127.0.0.1:0", "agents", "agents.listen")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, err = serve.Listen(l.Addr().String(), "agents", "agents.listen")
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "listen for agents") || !strings.Contains(fault.HintOf(err), "agents.listen") {
		t.Errorf("error %v, hint %q", err, fault.HintOf(err))
	}
}
