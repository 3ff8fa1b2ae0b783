package api

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/access"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/serve"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const reference = "../../docs/reference/access.md"

var update = flag.Bool("update", false, "write docs/reference/access.md")

// token makes a token; "" has no role.
func (in *installation) token(t testing.TB, lifetime time.Duration, projects []string, roles ...commonv1.Role) (id, secret string) {
	t.Helper()
	token := &controlv1.Token{Name: "test", Roles: roles, Projects: projects}
	err := in.store.Update(t.Context(), func(tx *store.Tx) (err error) {
		secret, err = in.doors.Tokens.Create(tx, token, lifetime, "local/admin")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return token.TokenId, secret
}

// invoke calls a method with an empty request and gives how it came out.
func (in *installation) invoke(t *testing.T, method, secret string) codes.Code {
	t.Helper()
	return in.invokeWith(t, method, secret, &emptypb.Empty{})
}

// invokeWith calls a method with a request.
func (in *installation) invokeWith(t *testing.T, method, secret string, request proto.Message) codes.Code {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+in.address, grpc.WithTransportCredentials(insecure.NewCredentials()), serve.Bearer(secret, true))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
	if err == nil {
		err = errors.Join(stream.SendMsg(request), stream.CloseSend())
	}
	if err == nil {
		err = stream.RecvMsg(&emptypb.Empty{})
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return status.Code(err)
}

// ask asks for an HTTP route and gives the status.
func (in *installation) ask(t *testing.T, method, path, secret string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "http://"+in.address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if secret != "" {
		request.Header.Set("Authorization", "Bearer "+secret)
	}
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	return response.StatusCode
}

// column is somebody who calls.
type column struct {
	name   string
	secret string
}

// callers is everyone for whom the table has a column.
func (in *installation) callers(t *testing.T) []column {
	all := []column{{"nobody", ""}}
	for _, role := range access.GivenRoles() {
		_, secret := in.token(t, time.Hour, nil, role)
		all = append(all, column{access.RoleName(role), secret})
	}
	_, scoped := in.token(t, time.Hour, []string{"llm"}, commonv1.Role_ROLE_ADMIN)
	return append(all, column{"admin of a project", scoped})
}

// TestAccessTable calls every method and every route as everyone. What comes out
// is the page that documents it.
func TestAccessTable(t *testing.T) {
	in := install(t)
	callers := in.callers(t)
	// So that every stream has something to say at once.
	in.update(t, func(tx *store.Tx) error {
		return errors.Join(tx.PutIncident(store.IncidentRecord{Incident: &controlv1.Incident{
			IncidentId: "inc-1", State: controlv1.IncidentState_INCIDENT_STATE_FIRING, Opened: timestamppb.Now(),
		}}), tx.AddTimeline("inc-1", &controlv1.TimelineEntry{Time: timestamppb.Now(), Text: "it began"}))
	})
	var page strings.Builder
	page.WriteString("# What each role may do\n\nMade by a test (`make gen`) that calls every method and route as each of these. In a cell is what comes of it:\n" +
		"`yes`, or the code of the refusal. An admin of a project gets `named` where he must name a run, or what belongs to one, of\n" +
		"his projects, and of lists what is theirs; those of other projects, and what there is not, are refused with 403. `not good` is\n" +
		"every credential that is none: expired, revoked, of another control plane, changed, made up, and ID tokens that are expired, for\n" +
		"another audience, of another issuer or signed by another key.\n\n| method or route | recorded as |")
	for _, c := range callers {
		fmt.Fprintf(&page, " %s |", c.name)
	}
	bad := in.badCredentials(t)
	page.WriteString(" not good |\n|---|---|" + strings.Repeat("---|", len(callers)+1) + "\n")
	for _, rule := range access.Rules() {
		fmt.Fprintf(&page, "| `%s` | %s |", strings.TrimPrefix(rule.Method, "/vigil.control.v1."), rule.Class)
		for _, c := range callers {
			cell := "yes"
			switch code := in.invoke(t, rule.Method, c.secret); {
			case code == codes.Unauthenticated:
				cell = "401"
			case code == codes.PermissionDenied && rule.Scope == commonv1.Scope_SCOPE_NAMED && strings.Contains(c.name, "project"):
				cell = "named"
			case code == codes.PermissionDenied:
				cell = "403"
			}
			fmt.Fprintf(&page, " %s |", cell)
		}
		fmt.Fprintf(&page, " %s |\n", in.refusals(t, bad, func(secret string) string {
			if in.invoke(t, rule.Method, secret) == codes.Unauthenticated {
				return "401"
			}
			return "yes"
		}))
	}
	for _, route := range access.Routes() {
		method := route.Methods
		if method == "*" {
			method = http.MethodPost
		}
		fmt.Fprintf(&page, "| `%s %s` | %s |", method, route.Prefix, route.Class)
		for _, c := range callers {
			cell := "yes"
			if status := in.ask(t, method, route.Prefix, c.secret); status == 401 || status == 403 {
				cell = fmt.Sprint(status)
			}
			fmt.Fprintf(&page, " %s |", cell)
		}
		fmt.Fprintf(&page, " %s |\n", in.refusals(t, bad, func(secret string) string {
			if in.ask(t, method, route.Prefix, secret) == http.StatusUnauthorized {
				return "401"
			}
			return "yes"
		}))
	}
	page.WriteString("\n`/metrics` is open to callers on this machine; from others it takes a viewer. Below `/hooks/v1/` receivers prove themselves by\ntheir signature. Any other path does not exist for anyone.\n")
	testkit.Page(t, reference, page.String(), *update)
}
