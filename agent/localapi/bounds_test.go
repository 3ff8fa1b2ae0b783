package localapi_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vigil-ml/vigil/agent/localapi"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/testkit"
)

const (
	guard       = 30 * time.Second                       // ends a test that hangs
	streamReset = "\x00\x00\x04\x03\x00\x00\x00\x00\x01" // the head of the frame that ends the first call
	ninthReset  = "\x00\x00\x04\x03\x00\x00\x00\x00\x11" // and the ninth
)

// halfCalls is gRPC calls whose messages say that they have a megabyte, and have a byte.
func halfCalls(method string, calls int) string {
	var out, head bytes.Buffer
	out.WriteString(http2.ClientPreface)
	frames := http2.NewFramer(&out, nil)
	_ = frames.WriteSettings()
	encoder := hpack.NewEncoder(&head)
	for call := range uint32(calls) {
		head.Reset()
		for _, field := range [][2]string{
			{":method", "POST"}, {":scheme", "http"}, {":path", "/vigil.trainer.v1.TrainerService/" + method}, {":authority", "v"},
			{"content-type", "application/grpc"}, {"te", "trailers"},
		} {
			_ = encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
		}
		_ = frames.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*call + 1, BlockFragment: head.Bytes(), EndHeaders: true})
		_ = frames.WriteData(2*call+1, false, append(binary.BigEndian.AppendUint32([]byte{0}, 1<<20), 'x'))
	}
	return out.String()
}

// TestSlowProcessesAreCut: on the trainers' socket, too, whoever is slow or speaks
// nonsense loses what it holds, and a trainer is served meanwhile.
func TestSlowProcessesAreCut(t *testing.T) {
	n := serveWith(t, nil, func(c *localapi.Config) { c.CallTimeout = 2 * time.Second })
	watching := n.watch(t.Context(), n.register(registration("watched", 0)))
	t.Run("what they say", func(t *testing.T) {
		for name, tc := range map[string]struct{ says, answer string }{
			"nothing":                     {"", ""},
			"half of the preface":         {"PRI", ""},
			"HTTP/2 and then nothing":     {http2.ClientPreface, ""},
			"half a head":                 {"POST /vigil.trainer.v1.TrainerService/Register HTTP/1.1\r\nHost: v\r\nX-", ""},
			"JSON that does not come":     {"POST /vigil.trainer.v1.TrainerService/Register HTTP/1.1\r\nHost: v\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", "400"},
			"a message that does not end": {halfCalls("Report", 1), streamReset},
			"a watch that does not begin": {halfCalls("WatchDirectives", 1), streamReset},
			"a head of a megabyte":        {"GET / HTTP/1.1\r\nHost: v\r\nX-A: " + strings.Repeat("a", 1<<20) + "\r\n\r\n", "431"},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				conn, err := net.Dial("unix", n.socket)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = conn.Close() }()
				_ = conn.SetDeadline(time.Now().Add(guard))
				_, _ = io.WriteString(conn, tc.says) // it may be gone before all is written
				if _, err := n.client.Register(t.Context(), registration("other", 0)); err != nil {
					t.Errorf("meanwhile a trainer is told %v", err)
				}
				var text []byte
				part := make([]byte, 4096)
				for tc.answer == "" || !bytes.Contains(text, []byte(tc.answer)) {
					got, err := conn.Read(part)
					text = append(text, part[:got]...)
					if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
						t.Fatalf("nothing came of it; answered %.300q", text)
					}
					if err != nil {
						break
					}
				}
				if !bytes.Contains(text, []byte(tc.answer)) {
					t.Errorf("answered %.300q; want %q", text, tc.answer)
				}
			})
		}
	})
	// All that took as long as a call may, and the watch is older.
	if _, err := n.sessions.Direct("watched", directive("d")); err != nil {
		t.Fatal(err)
	}
	if next, err := watching.Recv(); err != nil || next.Directive.GetDirectiveId() != "d" {
		t.Errorf("a watch that is older than a call may be: %v, %v", next, err)
	}
}

// TestOneUserDoesNotTakeTheSocket: a user's processes get so many connections and
// calls, and another user's processes are served all the same.
func TestOneUserDoesNotTakeTheSocket(t *testing.T) {
	n := openNode(t, func(c *localapi.Config) { c.MaxPerUser = 8 })
	var hers []net.Conn
	t.Cleanup(func() {
		for _, conn := range hers {
			_ = conn.Close()
		}
	})
	testkit.Eventually(t, "the socket to be hers too", func() bool {
		conn, err := connectAs(ada, n.socket)
		if err != nil {
			return false
		}
		hers = append(hers, conn)
		return true
	})
	for range 20 {
		conn, err := connectAs(ada, n.socket)
		if err != nil {
			t.Fatal(err)
		}
		hers = append(hers, conn)
	}
	testkit.Eventually(t, "her connections to be turned away", func() bool { return n.count(metric.AgentConnsRefused) == 13 })
	if code, text := n.postAs(bob, "Register", `{"runId":"his","kind":"SESSION_KIND_SUPERVISOR"}`, nil); code != http.StatusOK {
		t.Errorf("another user: %d %s", code, text)
	}
	for _, conn := range hers {
		_ = conn.Close()
	}
	hers = nil

	// The calls of one connection are counted as well, before their messages are there.
	var conn net.Conn
	testkit.Eventually(t, "one connection of hers", func() bool {
		var err error
		if conn, err = connectAs(ada, n.socket); err != nil {
			return false
		}
		hers = append(hers, conn)
		_ = conn.SetReadDeadline(time.Now().Add(guard))
		_, _ = io.WriteString(conn, halfCalls("Report", 9))
		var text []byte
		for part := make([]byte, 4096); !bytes.Contains(text, []byte(ninthReset)); {
			got, err := conn.Read(part)
			if text = append(text, part[:got]...); err != nil {
				return false // one of those before is not gone yet
			}
		}
		return true
	})
	client := n.as(ada)
	register := func() codes.Code {
		_, err := client.Register(t.Context(), registration("hers", 0))
		return status.Code(err)
	}
	testkit.Eventually(t, "her calls to be too many", func() bool { return register() == codes.ResourceExhausted })
	if code, text := n.postAs(bob, "Register", `{"runId":"his","kind":"SESSION_KIND_SUPERVISOR"}`, nil); code != http.StatusOK {
		t.Errorf("another user meanwhile: %d %s", code, text)
	}
	if code, text := n.postAs(ada, "Register", `{"runId":"hers","kind":"SESSION_KIND_SUPERVISOR"}`, nil); code != http.StatusTooManyRequests {
		t.Errorf("she as JSON: %d %s", code, text)
	}
	_ = conn.Close()
	testkit.Eventually(t, "her calls to be taken again", func() bool { return register() == codes.OK })
}
