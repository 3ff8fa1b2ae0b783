package agent

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/vigil-ml/vigil/internal/serve"
)

const (
	// maxReaders is how many connections the port for metrics has; who reads them is
	// not known there.
	maxReaders     = 64
	maxHeaderBytes = 64 << 10
	// readerWait is how long a reader may take to send a request.
	readerWait = 10 * time.Second
)

// serveReaders answers those who read the agent's pages, until ctx ends. Whoever is
// slower than wait to ask, or six times that to take the answer, or silent for
// twelve times that, loses the connection. Refused is told of those who are one too
// many.
func serveReaders(ctx context.Context, listener net.Listener, pages http.Handler, wait time.Duration, refused func()) error {
	server := &http.Server{
		Handler: pages, MaxHeaderBytes: maxHeaderBytes, ReadTimeout: wait, WriteTimeout: 6 * wait, IdleTimeout: 12 * wait,
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	bounded := serve.Bound(listener, serve.Bounds{Most: maxReaders, Refused: func(string, int) { refused() }})
	if err := server.Serve(bounded); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
