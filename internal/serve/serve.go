package serve

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/vigil-ml/vigil/internal/life"
)

const (
	maxJSONBytes   = 8 << 20
	maxHeaderBytes = 64 << 10
	drainTime      = 3 * time.Second
	idleTime       = 2 * time.Minute
	pipeBytes      = 64 << 10 // each way, for as long as the server runs; gRPC sends no more without being told to
	readBytes      = 8 << 10
	callPrefix     = "/vigil."
)

// Register adds a service's JSON routes; generated code has one a service,
// named Register...ServiceHandler.
type Register func(ctx context.Context, mux *runtime.ServeMux, conn *grpc.ClientConn) error

// Options says what is served.
type Options struct {
	// GRPC has its services registered already; Both stops it.
	GRPC *grpc.Server
	// JSON are the services that also answer POST /package.Service/Method.
	JSON []Register
	// HTTP answers every other path; nil answers 404.
	HTTP http.Handler
	// RefuseUnknownFields makes a JSON field that there is not an error instead
	// of nothing: for people, not for programs of other versions.
	RefuseUnknownFields bool
	// Admit says whether a JSON call is read at all: its error is the answer, and has
	// a gRPC code. nil reads every call.
	Admit func(r *http.Request) error
	// TLS is how the listener speaks; nil is plainly. [Protocols] belong into it.
	TLS *tls.Config
	// Wait is how long a client may take to shake hands, to say what it speaks, and
	// to send a request's head; 0 is ten seconds. BodyTime is how long a request's
	// body may take to come; 0 is a minute.
	Wait, BodyTime time.Duration
}

// Protocols is what a TLS configuration offers for [Both]. Whoever speaks
// HTTP/1.1 too gets that: an HTTP/2 connection is gRPC's here.
func Protocols() []string { return []string{"http/1.1", "h2"} }

// Both serves on a listener until ctx ends, then lets calls in flight finish
// for a few seconds. It closes the listener.
func Both(ctx context.Context, listener net.Listener, options Options) error {
	pipe := bufconn.Listen(pipeBytes)
	conn, err := grpc.NewClient("passthrough:///json",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithReadBufferSize(readBytes))
	if err != nil {
		return errors.Join(fmt.Errorf("open JSON pipe: %w", err), listener.Close())
	}
	defer func() { _ = conn.Close() }()
	handler, err := jsonHandler(ctx, conn, options)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	split := newSplitter(context.WithoutCancel(ctx), listener, options)
	web := &http.Server{
		Handler:           inTime(handler, cmp.Or(options.BodyTime, time.Minute)),
		ReadHeaderTimeout: cmp.Or(options.Wait, prefaceWait), IdleTimeout: idleTime, MaxHeaderBytes: maxHeaderBytes, ConnContext: withPeer,
	}
	return life.All(ctx,
		life.Task{Name: "accept", Run: split.run},
		life.Task{Name: "gRPC", Run: untilStopped(func() error { return options.GRPC.Serve(split.grpc) })},
		life.Task{Name: "JSON pipe", Run: untilStopped(func() error { return options.GRPC.Serve(pipe) })},
		life.Task{Name: "HTTP", Run: untilStopped(func() error { return web.Serve(split.http) })},
		life.Task{Name: "stop", Run: func(ctx context.Context) error {
			<-ctx.Done()
			stop(options.GRPC, web)
			return nil
		}},
	)
}

// untilStopped turns the end that the stop task brings into no error.
func untilStopped(serve func() error) func(context.Context) error {
	return func(ctx context.Context) error {
		err := serve()
		if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
			<-ctx.Done()
			return nil
		}
		return err
	}
}

// stop drains both servers, then cuts what is left.
func stop(g *grpc.Server, web *http.Server) {
	cut := time.AfterFunc(drainTime, g.Stop)
	defer cut.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if web.Shutdown(ctx) != nil {
		_ = web.Close()
	}
	g.GracefulStop()
}

// refuse answers with an error, and says in Retry-After when to come again where
// it has that.
func refuse(ctx context.Context, mux *runtime.ServeMux, marshaler runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			SetRetryAfter(w, info.GetRetryDelay().AsDuration())
		}
	}
	runtime.DefaultHTTPErrorHandler(ctx, mux, marshaler, w, r, err)
}

// SetRetryAfter says when to come again, in whole seconds, at least one.
func SetRetryAfter(w http.ResponseWriter, after time.Duration) {
	w.Header().Set("Retry-After", strconv.Itoa(max(1, int(math.Ceil(after.Seconds())))))
}

func jsonHandler(ctx context.Context, conn *grpc.ClientConn, options Options) (http.Handler, error) {
	mux := runtime.NewServeMux(runtime.WithErrorHandler(refuse), runtime.WithMetadata(sayPeer), runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.JSONPb{
		MarshalOptions:   protojson.MarshalOptions{EmitDefaultValues: true},
		UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: !options.RefuseUnknownFields},
	}))
	for _, register := range options.JSON {
		if err := register(ctx, mux, conn); err != nil {
			return nil, fmt.Errorf("register JSON routes: %w", err)
		}
	}
	other := options.HTTP
	if other == nil {
		other = http.NotFoundHandler()
	}
	calls := http.MaxBytesHandler(mux, maxJSONBytes)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, callPrefix) {
			other.ServeHTTP(w, r)
			return
		}
		if r.Method != http.MethodPost {
			http.Error(w, "want POST", http.StatusMethodNotAllowed)
			return
		}
		// A form or plain text can be posted across sites by any web page; JSON
		// cannot without the browser asking first.
		if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/json" {
			http.Error(w, "want Content-Type: application/json", http.StatusUnsupportedMediaType)
			return
		}
		if options.Admit != nil {
			if err := options.Admit(r); err != nil {
				w.Header().Set("Connection", "close") // what follows is not read
				refuse(r.Context(), mux, &runtime.JSONPb{MarshalOptions: protojson.MarshalOptions{EmitDefaultValues: true}}, w, r, err)
				return
			}
		}
		calls.ServeHTTP(w, r)
	}), nil
}
