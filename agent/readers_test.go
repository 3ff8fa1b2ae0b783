package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/testkit"
)

// TestReadersAreBounded: the port for metrics holds some connections and no more,
// and lets go of those that are slow.
func TestReadersAreBounded(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var refused atomic.Int64
	pages := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/endless" {
			for page := []byte(strings.Repeat("x", 1<<16)); ; {
				if _, err := w.Write(page); err != nil {
					return
				}
			}
		}
		_, _ = io.WriteString(w, "page")
	})
	const wait = 300 * time.Millisecond
	group := life.NewGroup(context.Background())
	group.Go("serve", func(ctx context.Context) error {
		return serveReaders(ctx, listener, pages, wait, func() { refused.Add(1) })
	})
	t.Cleanup(func() {
		group.Stop()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
	// ends says something and waits for the connection's end.
	ends := func(says string) error {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.WriteString(conn, says); err != nil {
			return err
		}
		if strings.Contains(says, "endless") {
			time.Sleep(6 * wait) // takes nothing of the answer
		}
		_, err = io.Copy(io.Discard, conn)
		return err
	}
	for name, says := range map[string]string{
		"nothing": "", "half a head": "GET / HTTP/1.1\r\nHost: v\r\nX-", "a body that does not come": "POST / HTTP/1.1\r\nHost: v\r\nContent-Length: 9\r\n\r\n",
		"a head without an end": "GET / HTTP/1.1\r\nX-A: " + strings.Repeat("a", 1<<20), "an answer that is not taken": "GET /endless HTTP/1.1\r\nHost: v\r\n\r\n",
		"nothing after an answer": "GET / HTTP/1.1\r\nHost: v\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err, slow := errors.AsType[net.Error](ends(says)); slow && err.Timeout() {
				t.Error("the connection is still there")
			}
		})
	}
	t.Run("too many", func(t *testing.T) {
		const more = 20
		var conns []net.Conn
		for range maxReaders + more {
			conn, err := net.Dial("tcp", listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
		}
		testkit.Eventually(t, "those who are too many to be turned away", func() bool { return refused.Load() >= more })
		for _, conn := range conns {
			_ = conn.Close()
		}
		testkit.Eventually(t, "others to be served again", func() bool {
			client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			response, err := client.Get("http://" + listener.Addr().String() + "/")
			if err != nil {
				return false
			}
			defer func() { _ = response.Body.Close() }()
			text, err := io.ReadAll(response.Body)
			return err == nil && string(text) == "page"
		})
	})
}
