package serve_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/serve"
	"github.com/vigil-ml/vigil/internal/testkit"
	trainergw "github.com/vigil-ml/vigil/proto/gateway/vigil/trainer/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

// patience is what the listener has in these tests; guard ends a test that hangs.
const (
	patience = 300 * time.Millisecond
	guard    = 30 * time.Second
)

// startTLS serves on loopback over TLS and gives where, and how to come in.
func startTLS(t *testing.T) (string, *tls.Config) {
	t.Helper()
	cert, pool := testkit.SelfSigned(t, "v")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(grpc.ConnectionTimeout(patience))
	trainerv1.RegisterTrainerServiceServer(g, &service{watchEnded: make(chan struct{})})
	group := life.NewGroup(context.Background())
	group.Go("serve", func(ctx context.Context) error {
		return serve.Both(ctx, listener, serve.Options{
			GRPC: g, JSON: []serve.Register{trainergw.RegisterTrainerServiceHandler}, Wait: patience, BodyTime: patience,
			TLS: &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: serve.Protocols()},
			HTTP: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, err := io.Copy(io.Discard, r.Body)
				_, _ = fmt.Fprint(w, "read: ", err)
			}),
		})
	})
	t.Cleanup(func() {
		group.Stop()
		if err := group.Wait(); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return listener.Addr().String(), &tls.Config{RootCAs: pool, ServerName: "v"}
}

// TestHostileConnections: whoever is slow, speaks nonsense or too much is let go
// of, and others are served meanwhile.
func TestHostileConnections(t *testing.T) {
	address, good := startTLS(t)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: good, DisableKeepAlives: true}}
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	garbage := make([]byte, 64<<10)
	_, _ = rand.Read(garbage)
	for _, tc := range []struct {
		name   string
		plain  bool // before TLS
		says   string
		answer string // that is given before the end
	}{
		{"says nothing", true, "", ""},
		{"half of a TLS handshake", true, "\x16\x03\x01\x02\x00\x01\x00", ""},
		{"plain HTTP to a TLS port", true, "GET / HTTP/1.1\r\nHost: v\r\n\r\n", ""},
		{"garbage before TLS", true, string(garbage), ""},
		{"says nothing after the handshake", false, "", ""},
		{"half of the HTTP/2 preface", false, "PRI", ""},
		{"half of a head", false, "GET / HTTP/1.1\r\nHost: v\r\nX-", ""},
		{"a body that does not come", false, "POST / HTTP/1.1\r\nHost: v\r\nContent-Length: 100\r\n\r\nx", "i/o timeout"},
		{"chunks that do not come", false, "POST / HTTP/1.1\r\nHost: v\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nx", "i/o timeout"},
		{"JSON that does not come", false, "POST /vigil.trainer.v1.TrainerService/Register HTTP/1.1\r\nHost: v\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", "400"},
		{"a head of a megabyte", false, "GET / HTTP/1.1\r\nHost: v\r\nX-A: " + strings.Repeat("a", 1<<20) + "\r\n\r\n", "431"},
		{"two lengths", false, "POST / HTTP/1.1\r\nHost: v\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", "400"},
		{"a line break in a header's name", false, "GET / HTTP/1.1\r\nHost: v\r\nX\nY: z\r\n\r\n", "400"},
		{"no host", false, "GET / HTTP/1.1\r\n\r\n", "400"},
		{"garbage", false, string(garbage), "400"},
		{"HTTP/2 and then nothing", false, preface, ""},
		{"HTTP/2 and then garbage", false, preface + string(garbage[:1000]), ""},
		{"a frame that says it has 16 MiB", false, preface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00\xff\xff\xff\x00\x00\x00\x00\x00\x01", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(guard))
			if !tc.plain {
				conn = tls.Client(conn, good)
			}
			if _, err := conn.Write([]byte(tc.says)); tc.plain && err != nil {
				t.Logf("write: %v", err) // it may be gone before all is written
			}
			if tc.says == "" && !tc.plain {
				if err := conn.(*tls.Conn).HandshakeContext(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if status := ask(t, client, address); status != http.StatusOK {
				t.Errorf("meanwhile another client gets %d", status)
			}
			text, err := io.ReadAll(conn)
			if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
				t.Fatalf("the connection is still there after %v", guard)
			}
			if !bytes.Contains(text, []byte(tc.answer)) {
				t.Errorf("answered %.200q, %v; want %q", text, err, tc.answer)
			}
		})
	}
}

// ask does what a well-behaved client does.
func ask(t *testing.T, client *http.Client, address string) int {
	t.Helper()
	response, err := client.Post("https://"+address+"/vigil.trainer.v1.TrainerService/Register", "application/json", strings.NewReader(`{"runId":"r"}`))
	if err != nil {
		t.Error(err)
		return 0
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
	return response.StatusCode
}

// TestSlowAnswersAreNotCut: how long an answer takes is not bounded, and a body
// that comes in time is read to its end.
func TestSlowAnswersAreNotCut(t *testing.T) {
	address, good := startTLS(t)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: good, DisableKeepAlives: true}}
	response, err := client.Post("https://"+address+"/", "text/plain", strings.NewReader(strings.Repeat("x", 1<<20)))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	if err != nil || string(text) != "read: <nil>" {
		t.Errorf("%q, %v", text, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+address+"/vigil.trainer.v1.TrainerService/WatchDirectives", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	stream, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Body.Close() }()
	ended := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, stream.Body); ended <- err }()
	select {
	case err := <-ended:
		t.Errorf("a stream ended with the time for bodies: %v", err)
	case <-time.After(4 * patience):
	}
}
