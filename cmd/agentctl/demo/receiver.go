package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/site"
)

// receiver stands for Slack and for a webhook: it takes what it is sent and
// remembers when.
type receiver struct {
	addr string

	mu   sync.Mutex
	took []receipt
}

type receipt struct {
	path string
	at   time.Time // just before the answer 200 was written
	body []byte
}

func openReceiver(group *life.Group) (*receiver, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open the receiver: %w", err)
	}
	r := &receiver{addr: l.Addr().String()}
	server := &http.Server{Handler: r, ReadHeaderTimeout: time.Second}
	group.Go("receiver", func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() { _ = server.Close() })
		defer stop()
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return r, nil
}

// ServeHTTP takes a notification.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	r.took = append(r.took, receipt{req.URL.Path, time.Now(), body})
	r.mu.Unlock()
	_, _ = io.WriteString(w, "ok")
}

// await waits until each path took something at or after a time, and gives the
// first that it took.
func (r *receiver) await(ctx context.Context, since time.Time, paths ...string) (map[string]receipt, error) {
	ctx, cancel := context.WithTimeout(ctx, site.StartWait)
	defer cancel()
	for {
		first := r.since(since)
		missing := slices.DeleteFunc(slices.Clone(paths), func(path string) bool { _, ok := first[path]; return ok })
		if len(missing) == 0 {
			return first, nil
		}
		select {
		case <-ctx.Done():
			return nil, fault.New(fault.Deadline, "%s took nothing within %v", strings.Join(missing, " and "), site.StartWait)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (r *receiver) since(t time.Time) map[string]receipt {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := map[string]receipt{}
	for _, got := range r.took {
		if _, ok := first[got.path]; !ok && !got.at.Before(t) {
			first[got.path] = got
		}
	}
	return first
}
