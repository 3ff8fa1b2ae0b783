package localapi_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/vigil-ml/vigil/internal/testkit"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

const reference = "../../docs/reference/access-trainers.md"

var update = flag.Bool("update", false, "write docs/reference/access-trainers.md")

// ofMethod gives a request of a method with a session and, where it has one, a
// run.
func ofMethod(method protoreflect.MethodDescriptor, run, session string) *dynamicpb.Message {
	request := dynamicpb.NewMessage(method.Input())
	for name, value := range map[protoreflect.Name]string{"run_id": run, "session_id": session} {
		if field := request.Descriptor().Fields().ByName(name); field != nil {
			request.Set(field, protoreflect.ValueOfString(value))
		}
	}
	if field := request.Descriptor().Fields().ByName("kind"); field != nil { // to register as
		request.Set(field, protoreflect.ValueOfEnum(trainerv1.SessionKind_SESSION_KIND_SUPERVISOR.Number()))
	}
	return request
}

// cell says how a call came out: whether the caller was let in, whatever the
// method then said of the request.
func cell(code codes.Code, says string) string {
	switch {
	case code == codes.Unauthenticated:
		return "401"
	case code == codes.PermissionDenied:
		return "403"
	case code == codes.NotFound && strings.Contains(says, "session"):
		return "404"
	case code == codes.Unavailable:
		return "no connection"
	default:
		return "yes"
	}
}

// tries calls a method as a user, as gRPC and as JSON, which are to come out the
// same.
func (n *node) tries(uid int, method protoreflect.MethodDescriptor, request *dynamicpb.Message) string {
	n.t.Helper()
	conn, err := grpc.NewClient("passthrough:///agent", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return connectAs(uid, n.socket) }))
	if err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name()))
	if err == nil {
		err = errors.Join(stream.SendMsg(request), stream.CloseSend())
	}
	if err == nil {
		err = stream.RecvMsg(dynamicpb.NewMessage(method.Output()))
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	got := cell(status.Code(err), status.Convert(err).Message())
	if method.IsStreamingServer() || got == "no connection" {
		return got
	}
	body, err := protojson.Marshal(request)
	if err != nil {
		n.t.Fatal(err)
	}
	code, says := n.postAs(uid, string(method.Name()), string(body), nil)
	kinds := map[int]codes.Code{401: codes.Unauthenticated, 403: codes.PermissionDenied, 404: codes.NotFound}
	asJSON := cell(kinds[code], says)
	if asJSON != got {
		n.t.Errorf("%s as user %d: %s as gRPC and %s as JSON", method.Name(), uid, got, asJSON)
	}
	return got
}

// TestTrainersTable calls every method of the trainers' socket as everyone. What
// comes out is the page that documents it.
func TestTrainersTable(t *testing.T) {
	n := openNode(t)
	session := func(uid int, run string) string {
		out, err := n.as(uid).Register(t.Context(), registration(run, 0))
		if err != nil {
			t.Fatal(err)
		}
		return out.SessionId
	}
	hers, his := session(ada, "hers"), session(bob, "his")
	closed := serve(t)
	var page strings.Builder
	page.WriteString("# What each process may do on the trainers' socket\n\nMade by a test (`make gen`) that calls every method, as gRPC and as JSON, as each of these. `yes`: the caller is let in, whatever\n" +
		"comes of the request. `no connection`: the kernel refuses them.\n\n" +
		"| method | her own run | another user's run or session | root, with another user's | a session that there is not | another user, socket_mode 0600 |\n|---|---|---|---|---|---|\n")
	methods := trainerv1.File_vigil_trainer_v1_trainer_proto.Services().ByName("TrainerService").Methods()
	for i := range methods.Len() {
		method := methods.Get(i)
		cells := []string{
			n.tries(ada, method, ofMethod(method, "hers", hers)),
			n.tries(bob, method, ofMethod(method, "hers", hers)),
			n.tries(0, method, ofMethod(method, "his", his)),
			n.tries(ada, method, ofMethod(method, "hers", "guessed")),
			closed.tries(bob, method, ofMethod(method, "hers", hers)),
		}
		fmt.Fprintf(&page, "| `%s` | %s |\n", method.Name(), strings.Join(cells, " | "))
	}
	testkit.Page(t, reference, page.String(), *update)
}
