package serve

import (
	"fmt"
	"net"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Listen listens on a TCP address. When that cannot be had the error says what
// it was for, and its hint names the setting to change.
func Listen(address, purpose, setting string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fault.WithHint(fault.Mark(fault.Unavailable, fmt.Errorf("listen for %s: %w", purpose, err)),
			fmt.Sprintf("another program may have the port: stop it, or set %s to another address", setting))
	}
	return l, nil
}
