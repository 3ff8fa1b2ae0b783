package serve

import (
	"context"

	"google.golang.org/grpc"
)

// bearer sends a secret with every call.
type bearer struct {
	secret    string
	plaintext bool
}

// GetRequestMetadata gives the header.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b.secret}, nil
}

// RequireTransportSecurity keeps the secret off the network unencrypted.
func (b bearer) RequireTransportSecurity() bool { return !b.plaintext }

// Bearer has a client send a secret with every call; none when it is empty.
// Plaintext allows a connection without TLS, which is for loopback alone.
func Bearer(secret string, plaintext bool) grpc.DialOption {
	if secret == "" {
		return grpc.EmptyDialOption{}
	}
	return grpc.WithPerRPCCredentials(bearer{secret, plaintext})
}
