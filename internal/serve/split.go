// Package serve puts gRPC and HTTP/JSON on one listener.
//
// Where the listener speaks TLS, that comes first. A connection that opens with the HTTP/2 preface goes to grpc-go's own
// transport; any other goes to net/http, where grpc-gateway turns JSON into
// calls of the same services. docs/adr/0001-grpc-and-json.md has the
// measurements that led here.
package serve

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/vigil-ml/vigil/internal/life"
)

const (
	http2Preface  = "PRI "
	prefaceWait   = 10 * time.Second
	pendingAccept = 64
)

// splitter hands connections of one listener to two.
type splitter struct {
	below net.Listener
	tls   *tls.Config // nil for a listener that speaks plainly
	wait  time.Duration
	group *life.Group
	grpc  *half
	http  *half
}

// half is the listener of one protocol.
type half struct {
	addr  net.Addr
	conns chan net.Conn
	done  <-chan struct{}
}

func newSplitter(ctx context.Context, below net.Listener, options Options) *splitter {
	group := life.NewGroup(ctx)
	newHalf := func() *half {
		return &half{addr: below.Addr(), conns: make(chan net.Conn, pendingAccept), done: group.Context().Done()}
	}
	return &splitter{below: below, tls: options.TLS, wait: cmp.Or(options.Wait, prefaceWait), group: group, grpc: newHalf(), http: newHalf()}
}

// run accepts until ctx ends or the listener fails.
func (s *splitter) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.below.Close() })
	defer stop()
	for {
		conn, err := s.below.Accept()
		if ctx.Err() != nil {
			s.group.Stop()
			return s.group.Wait()
		}
		if err != nil {
			s.group.Stop()
			return errors.Join(err, s.group.Wait())
		}
		s.group.Go("sniff", func(ctx context.Context) error {
			s.route(ctx, conn)
			return nil
		})
	}
}

// route reads the first bytes of a connection and hands it on. A client that
// says nothing for a while, or does not finish its handshake, is dropped.
func (s *splitter) route(ctx context.Context, conn net.Conn) {
	if s.tls != nil {
		conn = tls.Server(conn, s.tls) // the first read shakes hands
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	_ = conn.SetReadDeadline(time.Now().Add(s.wait))
	r := bufio.NewReader(conn)
	first, err := r.Peek(len(http2Preface))
	if err != nil || !stop() {
		_ = conn.Close()
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	to := s.http
	if string(first) == http2Preface {
		to = s.grpc
	}
	select {
	case to.conns <- &peekedConn{Conn: conn, r: r}:
	case <-ctx.Done():
		_ = conn.Close()
	}
}

// Accept waits for a connection of the half's protocol.
func (h *half) Accept() (net.Conn, error) {
	select {
	case conn := <-h.conns:
		return conn, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close does nothing: the splitter owns the listener.
func (h *half) Close() error { return nil }

// Addr is where the listener listens.
func (h *half) Addr() net.Addr { return h.addr }

// peekedConn gives back what was read of it.
type peekedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *peekedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// NetConn is the connection below, for peer credentials.
func (c *peekedConn) NetConn() net.Conn { return c.Conn }
