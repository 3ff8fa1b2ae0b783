package serve

import (
	"errors"
	"io"
	"net/http"
	"time"
)

// inTime bounds how long a request's body may take to come: a client that sends
// a byte a minute must not hold a connection, and what is kept for it, for ever.
// How long the answer takes is not bounded, as answers may be streams.
func inTime(next http.Handler, most time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body != nil && r.ContentLength != 0 {
			c := http.NewResponseController(w)
			if c.SetReadDeadline(time.Now().Add(most)) == nil {
				r.Body = &timedBody{r.Body, c}
			}
		}
		next.ServeHTTP(w, r)
	})
}

// timedBody lifts the deadline when the body is there.
type timedBody struct {
	io.ReadCloser
	control *http.ResponseController
}

// Read reads, and lifts the deadline at the end.
func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}
