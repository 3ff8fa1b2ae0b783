package serve

import (
	"context"
	"net"
	"net/http"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// peerKey is the metadata in which the JSON side says who calls. Its last value
// is its own word; what a client sent under that name comes before.
const peerKey = "vigil-peer-uid"

// unknownUser stands for a peer of which the kernel says nothing.
const unknownUser = -1

// PeerUser gives the user who calls over a unix socket, as the kernel has it, for
// servers made with [PeerCredentials]. Called is false where nobody calls over a
// connection, that is, for calls within this process.
func PeerUser(ctx context.Context) (uid int, known, called bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return 0, false, false
	}
	uid = unknownUser
	switch info := p.AuthInfo.(type) {
	case peerInfo:
		uid = info.uid
	case pipeInfo:
		md, _ := metadata.FromIncomingContext(ctx)
		if values := md.Get(peerKey); len(values) > 0 {
			if n, err := strconv.Atoi(values[len(values)-1]); err == nil {
				uid = n
			}
		}
	}
	return uid, uid >= 0, true
}

// PeerCredentials has a server of [Both] on a unix socket know its callers; see
// [PeerUser]. It is not for other listeners: it encrypts nothing.
func PeerCredentials() grpc.ServerOption { return grpc.Creds(peerCredentials{}) }

// peerInfo is who is at the other end of a unix socket.
type peerInfo struct {
	credentials.CommonAuthInfo
	uid int
}

// AuthType names it.
func (peerInfo) AuthType() string { return "unix" }

// pipeInfo marks the connection of this process's own JSON side.
type pipeInfo struct{ credentials.CommonAuthInfo }

// AuthType names it.
func (pipeInfo) AuthType() string { return "pipe" }

// peerCredentials asks the kernel who connected.
type peerCredentials struct{}

// ClientHandshake is not for clients.
func (peerCredentials) ClientHandshake(_ context.Context, _ string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return conn, pipeInfo{}, nil
}

// ServerHandshake says who is there.
func (peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	level := credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}
	if below := unixConn(conn); below != nil {
		return conn, peerInfo{level, uidOf(below)}, nil
	}
	if conn.RemoteAddr().Network() == "bufconn" {
		return conn, pipeInfo{level}, nil
	}
	return conn, peerInfo{level, unknownUser}, nil
}

// Info describes it.
func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix"}
}

// Clone gives the same.
func (c peerCredentials) Clone() credentials.TransportCredentials { return c }

// OverrideServerName does nothing.
func (peerCredentials) OverrideServerName(string) error { return nil }

// unixConn gives the unix socket below a connection; nil where there is none.
func unixConn(conn net.Conn) *net.UnixConn {
	for {
		switch c := conn.(type) {
		case *net.UnixConn:
			return c
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return nil
		}
	}
}

type peerContextKey struct{}

// withPeer puts the user at a connection's other end into its requests' context.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	uid := unknownUser
	if below := unixConn(conn); below != nil {
		uid = uidOf(below)
	}
	return context.WithValue(ctx, peerContextKey{}, uid)
}

// sayPeer has the JSON side hand that on.
func sayPeer(_ context.Context, r *http.Request) metadata.MD {
	uid, ok := r.Context().Value(peerContextKey{}).(int)
	if !ok {
		uid = unknownUser
	}
	return metadata.Pairs(peerKey, strconv.Itoa(uid))
}
