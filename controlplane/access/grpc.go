package access

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
)

// lookEvery is how often it is looked whether the caller of a stream is still
// known.
const lookEvery = 2 * time.Second

// Unary lets one call in and out; it is a [grpc.UnaryServerInterceptor].
func (g *Guard) Unary(ctx context.Context, in any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	request, _ := in.(proto.Message)
	inside, call, err := g.enter(ctx, g.ruleOf(info.FullMethod), credentialOf(ctx), request)
	if err != nil {
		return nil, err
	}
	out, err := handle(inside, in)
	if answer, ok := out.(proto.Message); ok && err == nil {
		if err = call.filter(ctx, answer); err == nil {
			g.name(ctx, answer.ProtoReflect())
		}
	}
	if err := call.leave(ctx, err); err != nil {
		return nil, err
	}
	return out, nil
}

// Stream does the same for a method that streams its answers; it is a
// [grpc.StreamServerInterceptor]. The call is let in once its request is there.
func (g *Guard) Stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	s := &guarded{ServerStream: stream, guard: g, rule: g.ruleOf(info.FullMethod), context: stream.Context, stop: func() {}}
	defer s.stop()
	err := handle(srv, s)
	if s.call == nil {
		return err
	}
	if cut := context.Cause(s.Context()); fault.Is(cut, fault.Unauthenticated) {
		err = cut
	}
	return s.call.leave(stream.Context(), err)
}

// ruleOf gives a method's rule; one that has none is refused to everybody.
func (g *Guard) ruleOf(method string) Rule {
	rule, ok := g.rules[method]
	if !ok {
		return Rule{Method: method, Class: classOf(0)}
	}
	return rule
}

// guarded is a stream whose call is let in with its first message.
type guarded struct {
	grpc.ServerStream
	guard   *Guard
	rule    Rule
	call    *call
	context func() context.Context
	stop    func() // looking whether the caller is still known
}

// Context is the call's.
func (s *guarded) Context() context.Context { return s.context() }

// RecvMsg takes the request, and lets the call in or not.
func (s *guarded) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil || s.call != nil {
		return err
	}
	request, _ := m.(proto.Message)
	ctx := s.ServerStream.Context()
	credential := credentialOf(ctx)
	inside, call, err := s.guard.enter(ctx, s.rule, credential, request)
	if err != nil {
		return err
	}
	inside, s.stop = s.guard.whileKnown(inside, credential)
	s.call, s.context = call, func() context.Context { return inside }
	return nil
}

// whileKnown gives a context that ends when the caller's credential is revoked or
// runs out. Stop must be called.
func (g *Guard) whileKnown(ctx context.Context, c Credential) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	group := life.NewGroup(ctx)
	group.Go("look", func(ctx context.Context) error {
		for life.Sleep(ctx, lookEvery) {
			// While it cannot be told, nobody is cut off.
			if _, err := g.recognize(ctx, c); fault.Is(err, fault.Unauthenticated) {
				cancel(err)
				return nil
			}
		}
		return nil
	})
	return ctx, func() {
		group.Stop()
		_ = group.Wait() // it gives no error
		cancel(context.Canceled)
	}
}

// SendMsg sends nothing of a call that was not let in.
func (s *guarded) SendMsg(m any) error {
	if s.call == nil {
		return fault.New(fault.Unauthenticated, "nothing was asked yet")
	}
	if answer, ok := m.(proto.Message); ok {
		s.guard.name(s.Context(), answer.ProtoReflect())
	}
	return s.ServerStream.SendMsg(m)
}

// credentialOf gives what a gRPC call brings. What came as JSON is forwarded by
// the gateway inside this process, which says where it came from.
func credentialOf(ctx context.Context) Credential {
	var c Credential
	md, _ := metadata.FromIncomingContext(ctx)
	if values := md.Get("authorization"); len(values) > 0 {
		c.Bearer = bearer(values[len(values)-1])
	}
	from, ok := peer.FromContext(ctx)
	if !ok {
		return c
	}
	if addr, isTCP := from.Addr.(*net.TCPAddr); isTCP {
		c.Source = addr.AddrPort().Addr().Unmap()
		return c
	}
	if forwarded := md.Get("x-forwarded-for"); len(forwarded) > 0 {
		// Only the last is the gateway's own word.
		parts := strings.Split(forwarded[len(forwarded)-1], ",")
		c.Source, _ = netip.ParseAddr(strings.TrimSpace(parts[len(parts)-1]))
	}
	return c
}

// bearer gives the secret of an Authorization header; "" when it has another
// scheme.
func bearer(header string) string {
	scheme, secret, _ := strings.Cut(strings.TrimSpace(header), " ")
	if !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	return strings.TrimSpace(secret)
}
