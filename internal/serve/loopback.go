package serve

import (
	"net"
	"net/netip"
)

// Loopback says what is wrong with an address to listen on, or "". Only
// loopback is right: what listens there asks nobody who they are, or speaks
// without TLS, so nothing beyond this machine may reach it.
func Loopback(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "" {
		return "want host:port, for instance 127.0.0.1:8080"
	}
	if ip, err := netip.ParseAddr(host); host == "localhost" || (err == nil && ip.IsLoopback()) {
		return ""
	}
	return "listens beyond this machine, and callers there are not authenticated; want 127.0.0.1 or [::1]"
}
