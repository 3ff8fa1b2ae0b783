package serve_test

import (
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"github.com/vigil-ml/vigil/internal/serve"
)

// script is a listener that gives what it was made with.
type script struct {
	net.Listener
	gives []any // errors and connections
}

func (s *script) Accept() (net.Conn, error) {
	if len(s.gives) == 0 {
		return nil, net.ErrClosed
	}
	next := s.gives[0]
	s.gives = s.gives[1:]
	if err, failed := next.(error); failed {
		return nil, err
	}
	return next.(net.Conn), nil
}

// TestBound: what is too much is closed, room comes back, and a lack of file
// descriptors ends nothing.
func TestBound(t *testing.T) {
	conn := func() net.Conn {
		here, there := net.Pipe()
		t.Cleanup(func() { _ = there.Close() })
		return here
	}
	third := conn()
	var refused []string
	l := serve.Bound(&script{gives: []any{conn(), syscall.EMFILE, conn(), third, conn(), conn()}}, serve.Bounds{
		Most: 2, Refused: func(why string, uid int) { refused = append(refused, why) },
	})
	first, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	second, err := l.Accept()
	if err != nil {
		t.Fatalf("after a lack of file descriptors: %v", err)
	}
	_ = first.Close()
	_ = first.Close() // counts once
	again, err := l.Accept()
	if err != nil {
		t.Fatalf("after one was closed: %v", err)
	}
	if _, err := l.Accept(); err != net.ErrClosed || !slices.Equal(refused, []string{"there are too many connections", "there are too many connections"}) {
		t.Errorf("refused %q, %v", refused, err)
	}
	for _, c := range []net.Conn{second, again} {
		_ = c.Close()
	}
	// A unix socket whose kernel says nothing is refused before it is read: a socket
	// that is closed already is such a one.
	pair, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pair.Close() }()
	gone, err := net.Dial("unix", pair.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = gone.Close()
	unknown := -2
	l = serve.Bound(&script{gives: []any{gone}}, serve.Bounds{Most: 2, User: 2, Refused: func(_ string, uid int) { unknown = uid }})
	if _, err := l.Accept(); err != net.ErrClosed || unknown != -1 {
		t.Errorf("a process of which nothing is known: user %d, %v", unknown, err)
	}
}

// from is a connection of an address.
type from struct {
	net.Conn
	address string
}

func (f from) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(f.address))
}

// TestBoundByAddress: one address takes no more than its share, whatever its port,
// and of IPv6 whatever its last 64 bits; others come in meanwhile.
func TestBoundByAddress(t *testing.T) {
	var gives []any
	for _, address := range []string{"192.0.2.1:1", "192.0.2.1:2", "[::ffff:192.0.2.1]:3", "192.0.2.2:1", "[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1", "[2001:db8:0:1::1]:1"} {
		here, there := net.Pipe()
		t.Cleanup(func() { _ = there.Close() })
		gives = append(gives, from{here, address})
	}
	refused := 0
	l := serve.Bound(&script{gives: gives}, serve.Bounds{Most: 100, Address: 2, Refused: func(why string, _ int) {
		if refused++; why != serve.TooManyOfAddress {
			t.Errorf("refused: %s", why)
		}
	}})
	var in []string
	for {
		conn, err := l.Accept()
		if err != nil {
			break
		}
		in = append(in, conn.RemoteAddr().String())
		t.Cleanup(func() { _ = conn.Close() })
	}
	want := []string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.2:1", "[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8:0:1::1]:1"}
	if !slices.Equal(in, want) || refused != 2 {
		t.Errorf("let in %q, refused %d; want %q", in, refused, want)
	}
}
