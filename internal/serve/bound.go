package serve

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// acceptAgain is how long it is waited after an accept that failed for what passes.
const acceptAgain = 50 * time.Millisecond

// Bounds says how many connections a listener holds at a time.
type Bounds struct {
	// Most is of all callers together; >= 1.
	Most int
	// User is of one user of the machine, over a unix socket; >= 1 there.
	User int
	// Address is of one address of the network; of IPv6 its first 64 bits count. 0 is
	// no bound.
	Address int
	// Refused is told of each connection that is closed at once, and must not
	// block: why, and of which user, -1 where that is not known. It may be nil.
	Refused func(why string, uid int)
}

// Bound has a listener close at once, before anything of it is read, a connection
// that is one too many, and on a unix socket one of which the kernel does not say
// whose it is. A lack of file descriptors or memory is waited out.
func Bound(below net.Listener, bounds Bounds) net.Listener {
	return &bounded{Listener: below, bounds: bounds, users: map[int]int{}, addresses: map[netip.Prefix]int{}}
}

type bounded struct {
	net.Listener
	bounds Bounds

	mu    sync.Mutex
	all   int
	users map[int]int // connections by user
	// addresses is connections by address; those of no network are not in it.
	addresses map[netip.Prefix]int
}

// Accept gives the next connection that may stay.
func (b *bounded) Accept() (net.Conn, error) {
	for {
		conn, err := b.Listener.Accept()
		if err != nil && passes(err) {
			time.Sleep(acceptAgain)
			continue
		}
		if err != nil {
			return nil, err
		}
		below := unixConn(conn)
		uid := unknownUser
		if below != nil {
			uid = uidOf(below)
		}
		from := networkOf(conn)
		why := "the kernel does not say whose it is"
		if below == nil || uid != unknownUser {
			why = b.take(uid, from)
		}
		if why == "" {
			return &boundConn{Conn: conn, release: sync.OnceFunc(func() { b.give(uid, from) })}, nil
		}
		_ = conn.Close()
		if b.bounds.Refused != nil {
			b.bounds.Refused(why, uid)
		}
	}
}

// passes tells whether the next accept may succeed.
func passes(err error) bool {
	for _, passing := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}

// take counts a connection, or says why there is no room for it.
func (b *bounded) take(uid int, from netip.Prefix) (why string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case uid != unknownUser && b.users[uid] >= b.bounds.User:
		return "the user has too many connections"
	case b.bounds.Address > 0 && from.IsValid() && b.addresses[from] >= b.bounds.Address:
		return TooManyOfAddress
	case b.all >= b.bounds.Most:
		return "there are too many connections"
	}
	b.all++
	b.users[uid]++
	if from.IsValid() {
		b.addresses[from]++
	}
	return ""
}

// TooManyOfAddress is why a connection is refused whose address has its share.
const TooManyOfAddress = "the address has too many connections"

// networkOf is what connections are counted by: the address or, of IPv6, the
// network that one host has to itself. It is not valid for other sorts.
func networkOf(conn net.Conn) netip.Prefix {
	tcp, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	address := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := 64
	if address.Is4() {
		bits = 32
	}
	prefix, _ := address.Prefix(bits) // not valid where the address is not
	return prefix
}

func (b *bounded) give(uid int, from netip.Prefix) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all--
	if b.users[uid]--; b.users[uid] == 0 {
		delete(b.users, uid)
	}
	if !from.IsValid() {
		return
	}
	if b.addresses[from]--; b.addresses[from] == 0 {
		delete(b.addresses, from)
	}
}

// boundConn is counted until it is closed.
type boundConn struct {
	net.Conn
	release func()
}

// Close closes it.
func (c *boundConn) Close() error {
	err := c.Conn.Close()
	c.release()
	return err
}

// NetConn is the connection below, for peer credentials.
func (c *boundConn) NetConn() net.Conn { return c.Conn }
