package email

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"

	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/pki"
)

// slack is how much later than the context the connection's own deadline is,
// so that it is the context that ends a try.
const slack = time.Second

// send makes one try. A 4xx answer can be tried again, as can everything that
// goes wrong on the way; a 5xx answer is permanent.
func (n *notifier) send(ctx context.Context, message *gomail.Msg) error {
	password, err := n.config.Password.Reveal()
	if err != nil {
		return err
	}
	client, err := n.client(ctx, password)
	if err != nil {
		return notify.Permanent(fmt.Errorf("send mail: %w", err))
	}
	if err = client.DialWithContext(ctx); err == nil {
		err = client.Send(message)
		_ = client.Close() // the server has answered; what becomes of its goodbye changes nothing
	}
	switch {
	case message.IsDelivered():
		n.deps.Say("the SMTP server took the mail for " + strings.Join(n.config.To, ", "))
		return nil
	case ctx.Err() != nil:
		return fault.New(fault.Deadline, "send mail: the SMTP server did not answer in time: %w", ctx.Err())
	case err == nil:
		return fault.New(fault.Unavailable, "send mail: the SMTP server did not take it")
	}
	err = notify.Redacted(err, password)
	if code := codeOf(err); code >= 500 {
		return notify.Permanent(fault.New(fault.Invalid, "send mail: %w", err))
	}
	return fault.New(fault.Unavailable, "send mail: %w", err)
}

// codeOf is the SMTP server's answer, 0 when it gave none.
func codeOf(err error) int {
	if e, ok := errors.AsType[*gomail.SendError](err); ok && e.ErrorCode() > 0 {
		return e.ErrorCode()
	}
	if e, ok := errors.AsType[*textproto.Error](err); ok {
		return e.Code
	}
	return 0
}

func (n *notifier) client(ctx context.Context, password string) (*gomail.Client, error) {
	config := &tls.Config{ServerName: n.config.Host, MinVersion: tls.VersionTLS12}
	if n.config.CAFile != "" {
		pool, err := pki.PoolOf(n.config.CAFile)
		if err != nil {
			return nil, fmt.Errorf("open mail server: %w", err)
		}
		config.RootCAs = pool
	}
	timeout := time.Minute
	if deadline, ok := ctx.Deadline(); ok {
		timeout = max(time.Until(deadline), time.Millisecond) + slack
	}
	options := []gomail.Option{
		gomail.WithPort(n.config.Port), gomail.WithTLSConfig(config), gomail.WithTimeout(timeout),
		gomail.WithTLSPolicy(gomail.TLSMandatory),
	}
	if n.config.TLS == tlsNone {
		options = append(options, gomail.WithTLSPolicy(gomail.NoTLS))
	}
	if n.config.TLS == tlsImplicit {
		// The library logs in over TLS only where it made that itself; a stop then
		// waits for the try's deadline.
		options = append(options, gomail.WithSSL())
	} else {
		options = append(options, gomail.WithDialContextFunc(func(dialCtx context.Context, network, address string) (net.Conn, error) {
			return dial(ctx, dialCtx, network, address)
		}))
	}
	if n.config.Hello != "" {
		options = append(options, gomail.WithHELO(n.config.Hello))
	}
	if n.config.Username != "" {
		options = append(options, gomail.WithUsername(n.config.Username), gomail.WithPassword(password),
			gomail.WithSMTPAuth(gomail.SMTPAuthAutoDiscover))
	}
	return gomail.NewClient(n.config.Host, options...)
}

// dial connects, and has the connection end with the try's context: the
// library knows only a deadline.
func dial(ctx, dialCtx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(dialCtx, network, address)
	if err != nil {
		return nil, err
	}
	return &ending{Conn: conn, stop: context.AfterFunc(ctx, func() { _ = conn.Close() })}, nil
}

// ending is a connection that its context closes.
type ending struct {
	net.Conn
	stop func() bool
}

// Close closes the connection.
func (e *ending) Close() error {
	e.stop()
	return e.Conn.Close()
}
