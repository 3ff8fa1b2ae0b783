package controlplane

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/localkey"
	"github.com/vigil-ml/vigil/internal/testkit"
)

// status asks for a page of a control plane and gives how it was answered; the
// connection is its own.
func status(t *testing.T, address, path, secret string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if secret != "" {
		request.Header.Set("Authorization", "Bearer "+secret)
	}
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = response.Body.Close() }()
	body, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(body)
}

// TestConnectionsAreBounded: one address holds no more connections than its share
// of either port; the next is closed at once and counted, and one that goes makes
// room.
func TestConnectionsAreBounded(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	c := Defaults()
	c.StateDir = t.TempDir()
	c.API.Listen, c.Agents.Listen = free(t), free(t)
	c.API.Connections, c.Agents.Connections = Bounds{10, 3}, Bounds{2, 10}
	runs(t, c)
	for _, port := range []struct {
		address string
		most    int
	}{{c.API.Listen, 3}, {c.Agents.Listen, 2}} {
		var open []net.Conn
		// The control plane answers nothing on these, and ends them after a while.
		closed := func(conn net.Conn) bool {
			_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			_, err := conn.Read(make([]byte, 1))
			timeout, still := err.(net.Error)
			return err != nil && (!still || !timeout.Timeout())
		}
		testkit.Eventually(t, "as many connections as there may be, and one that is closed", func() bool {
			for _, conn := range open { // of a round before
				_ = conn.Close()
			}
			open = nil
			for range port.most + 1 {
				conn, err := net.Dial("tcp", port.address)
				if err != nil {
					t.Fatal(err)
				}
				open = append(open, conn)
			}
			for _, conn := range open[:port.most] {
				if closed(conn) {
					return false // another of this process may not be gone yet
				}
			}
			return closed(open[port.most])
		})
		for _, conn := range open {
			_ = conn.Close()
		}
	}
	testkit.Eventually(t, "room again", func() bool { code, _ := status(t, c.API.Listen, "/healthz", ""); return code == http.StatusOK })
	_, page := status(t, c.API.Listen, "/metrics", "")
	for _, want := range []string{`vigil_control_refused_connections_total{port="api",reason="address"}`, `vigil_control_refused_connections_total{port="agents",reason="port"}`} {
		if !strings.Contains(page, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
}

// TestTheLocalAdministratorIsMadeOnce: with the first start there is a secret in a
// file, for whoever started it without a terminal; it is good on the next start too,
// which makes no other, and what is made anew at each start still works.
func TestTheLocalAdministratorIsMadeOnce(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	c := Defaults()
	c.StateDir = t.TempDir()
	file := filepath.Join(c.StateDir, adminFile)
	var secret string
	for start := range 2 {
		c.API.Listen, c.Agents.Listen = free(t), free(t)
		var logged strings.Builder
		group := life.NewGroup(context.Background())
		group.Go("control plane", func(ctx context.Context) error { return Run(ctx, c, &logged) })
		convenience := ""
		testkit.Eventually(t, "a control plane", func() bool {
			convenience, _ = localkey.Find(c.API.Listen, localkey.Operator)
			return convenience != ""
		})
		data, err := os.ReadFile(file)
		switch {
		case start == 0 && err != nil:
			t.Fatal(err)
		case start == 0:
			secret = strings.TrimSpace(string(data))
			if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the file: %v, %v", info, err)
			}
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		case err == nil:
			t.Error("a second start made another secret")
		}
		for name, tc := range map[string]struct {
			secret string
			want   int
		}{
			"the lasting secret": {secret, http.StatusOK}, "that of this start": {convenience, http.StatusOK}, "another": {"vgladmin_A", http.StatusUnauthorized},
		} {
			if code, _ := status(t, c.API.Listen, "/api/v1/query?query=1", tc.secret); code != tc.want {
				t.Errorf("start %d, %s: status %d, want %d", start, name, code, tc.want)
			}
		}
		group.Stop()
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(logged.String(), secret) {
			t.Error("the secret is in the log")
		}
	}
}
