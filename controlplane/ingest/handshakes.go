package ingest

import (
	"net"
	"runtime"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/protocol"
)

const (
	// handshakesOfProcessor is how many handshakes go on at once for each processor:
	// enough where answers take a tenth of a second to come.
	handshakesOfProcessor = 32
	// longestTurn is how long a handshake keeps others from beginning.
	longestTurn = 2 * time.Second
	// staleAfter is how long an agent waits for its turn at most: soon after it gives
	// up (protocol.ConnectTimeout), and what was computed would be for nothing.
	staleAfter = protocol.ConnectTimeout * 3 / 4
	// silentAfter is when one is cut off that says nothing.
	silentAfter = 20 * time.Second
)

// Handshakes has few handshakes of TLS go on at once, and the rest wait with
// nothing done for them yet. When ten thousand agents come at once, as they do
// after a restart, all would get a little of each second, and give up before any
// was done; like this each second some are done. An agent has a turn from when its
// first bytes came.
func Handshakes(of credentials.TransportCredentials) credentials.TransportCredentials {
	return &handshakes{of, make(chan struct{}, handshakesOfProcessor*runtime.GOMAXPROCS(0)), longestTurn, staleAfter}
}

type handshakes struct {
	credentials.TransportCredentials
	turns chan struct{} // one in it for each that goes on
	turn  time.Duration
	stale time.Duration
}

// Clone gives credentials with the same turns.
func (h *handshakes) Clone() credentials.TransportCredentials {
	return &handshakes{h.TransportCredentials.Clone(), h.turns, h.turn, h.stale}
}

// ServerHandshake is gRPC's. It fails with [fault.Unavailable] when no turn came
// in time.
func (h *handshakes) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if err := raw.SetReadDeadline(time.Now().Add(silentAfter)); err != nil {
		return nil, nil, err
	}
	conn := &arriving{Conn: raw, handshakes: h, leave: func() {}}
	above, info, err := h.TransportCredentials.ServerHandshake(conn)
	conn.leave()
	conn.handshakes, conn.leave = nil, nil
	return above, info, err
}

// arriving is a connection that waits for its turn when its first bytes have come.
type arriving struct {
	net.Conn
	handshakes *handshakes
	arrived    bool
	leave      func() // gives the turn back, once
}

func (c *arriving) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.arrived || n == 0 {
		return n, err
	}
	c.arrived = true
	if err := c.wait(); err != nil {
		return n, err
	}
	return n, c.SetReadDeadline(time.Now().Add(silentAfter))
}

func (c *arriving) wait() error {
	patience := time.NewTimer(c.handshakes.stale)
	defer patience.Stop()
	select {
	case c.handshakes.turns <- struct{}{}:
	case <-patience.C:
		return fault.New(fault.Unavailable, "too many agents connect at once; no turn came within %s", c.handshakes.stale)
	}
	give := sync.OnceFunc(func() { <-c.handshakes.turns })
	late := time.AfterFunc(c.handshakes.turn, give)
	c.leave = func() { late.Stop(); give() }
	return nil
}
