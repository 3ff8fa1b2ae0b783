package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/localkey"
	"github.com/vigil-ml/vigil/internal/serve"
)

// maxMessageBytes is the largest answer that is taken.
const maxMessageBytes = 64 << 20

// client is a connection to the control plane. Close it.
type client struct {
	*grpc.ClientConn
	server string
	mu     sync.Mutex
	dial   error // how the last try to connect ended
}

// connect makes a client; it does not connect before the first request.
func (a *app) connect(ctx context.Context) (*client, error) {
	c := &client{server: a.server}
	dialer := net.Dialer{Timeout: a.timeout}
	to, err := a.destination()
	if err != nil {
		return nil, err
	}
	token, err := a.token(ctx, to)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///"+to.address,
		grpc.WithTransportCredentials(to.credentials()),
		serve.Bearer(token, to.tls == nil),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, "tcp", address)
			c.mu.Lock()
			defer c.mu.Unlock()
			c.dial = err
			return conn, err
		}))
	if err != nil {
		return nil, fault.New(fault.Invalid, "--server %s: %w", to.address, err)
	}
	c.ClientConn = conn
	return c, nil
}

// token finds what to come in with: the token that was named, or the user's
// sign-in, or what this user's own control plane on this machine left.
func (a *app) token(ctx context.Context, to destination) (string, error) {
	path := a.tokenFile
	if path == "" {
		path = a.getenv("VIGIL_TOKEN_FILE")
	}
	if path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("read token: %w", err)
		}
		return strings.TrimSpace(string(text)), nil
	}
	if token := a.getenv("VIGIL_TOKEN"); token != "" {
		return token, nil
	}
	if to.login == nil {
		l, err := a.login(to.address)
		if err != nil {
			return "", err
		}
		to.login = &l
	}
	if token, err := a.signedIn(ctx, to.address, *to.login); token != "" || err != nil {
		return token, err
	}
	return localkey.Find(to.address, localkey.Operator)
}

// call does one thing with the control plane within the timeout; what names it
// in an error, for instance "get runs".
func (a *app) call(ctx context.Context, what string, do func(context.Context, *client) error) error {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	return a.stream(ctx, what, do)
}

// stream is call without a timeout of its own.
func (a *app) stream(ctx context.Context, what string, do func(context.Context, *client) error) error {
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if err := c.cause(do(ctx, c)); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// cause turns what a request returned into an error for a person.
func (c *client) cause(err error) error {
	s, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	c.mu.Lock()
	dial := c.dial
	c.mu.Unlock()
	err = fault.FromGRPC(err)
	switch {
	case dial != nil && (fault.Is(err, fault.Unavailable) || fault.Is(err, fault.Deadline)):
		return fault.WithHint(fault.New(fault.Unavailable, "no control plane answers at %s: %s", c.server, plain(dial)),
			"start vigil-controlplane, or name another with --server or VIGIL_SERVER")
	case fault.Is(err, fault.Deadline):
		return fault.WithHint(fault.New(fault.Deadline, "the control plane at %s did not answer in time", c.server),
			"give it longer with --timeout, or look at its log")
	}
	for _, detail := range s.Details() {
		if help, ok := detail.(*errdetails.Help); ok && len(help.Links) > 0 {
			hint := help.Links[0].Description
			text := strings.TrimSuffix(s.Message(), " ("+hint+")")
			return fault.WithHint(fault.New(fault.KindOf(err), "%s", text), hint)
		}
	}
	return err
}

// plain says in few words why a connection could not be made.
func plain(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return dns.Err
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return "timed out"
	}
	return err.Error()
}
