package api

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/access"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/testkit/idp"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// badCredentials is what was good once, is another's, or never was.
func (in *installation) badCredentials(t *testing.T) []column {
	t.Helper()
	admin, auditor := commonv1.Role_ROLE_ADMIN, commonv1.Role_ROLE_AUDITOR
	expiredID, expired := in.token(t, time.Hour, nil, admin, auditor)
	revokedID, revoked := in.token(t, time.Hour, nil, admin, auditor)
	_, good := in.token(t, time.Hour, nil, admin, auditor)
	foreign := install(t)
	_, other := foreign.token(t, time.Hour, nil, admin, auditor)
	in.update(t, func(tx *store.Tx) error {
		token, _, err := tx.Token(expiredID)
		if err != nil {
			return err
		}
		token.Expires = timestamppb.New(time.Now().Add(-time.Second))
		return tx.PutToken(token, nil)
	})
	in.update(t, func(tx *store.Tx) error { _, err := in.doors.Tokens.Revoke(tx, revokedID); return err })
	elsewhere := idp.Start(t, map[string]any{"sub": "root"})
	claims := map[string]any{"iss": in.provider.Issuer(), "aud": "vigil", "sub": "root", "exp": time.Now().Add(time.Hour).Unix()}
	return []column{
		{"expired", expired}, {"revoked", revoked}, {"of another control plane", other},
		{"another control plane's local", foreign.doors.Secret}, {"changed", good[:len(good)-1] + "!"}, {"id alone", good[:15]},
		{"made up", "vgl_abc_def"}, {"no sort", "Zm9v"}, {"space", " "},
		{"an ID token that has expired", in.provider.Token("vigil", map[string]any{"exp": time.Now().Add(-time.Hour).Unix()})},
		{"an ID token for another", in.provider.Token("grafana", nil)},
		{"an ID token of another issuer", elsewhere.Token("vigil", nil)},
		{"an ID token that another key signed", idp.Sign(t, idp.NewKey(t), claims)},
	}
}

// refusals gives what comes of a call with each of these, which is to be one and
// the same.
func (in *installation) refusals(t *testing.T, bad []column, call func(secret string) string) string {
	t.Helper()
	var cells []string
	for _, c := range bad {
		cell := call(c.secret)
		if len(cells) == 0 || cells[0] != cell {
			cells = append(cells, cell)
		}
		if len(cells) > 1 {
			t.Errorf("%s: %s", c.name, cell)
		}
	}
	return strings.Join(cells, " ")
}

// A person without a grant is known, and may do nothing but learn that.
func TestSignedInWithoutAGrant(t *testing.T) {
	in := install(t)
	token := in.provider.Token("vigil", nil)
	for _, rule := range access.Rules() {
		want := codes.PermissionDenied
		if rule.Role == commonv1.Role_ROLE_ANYONE {
			want = codes.OK
		}
		if code := in.invoke(t, rule.Method, token); code != want && (want != codes.OK || code == codes.PermissionDenied) {
			t.Errorf("%s: %v, want %v", rule.Method, code, want)
		}
	}
	for _, route := range access.Routes() {
		if route.Open != access.Closed {
			continue
		}
		method := strings.ReplaceAll(route.Methods, "*", http.MethodPost)
		if status := in.ask(t, method, route.Prefix, token); status != http.StatusForbidden {
			t.Errorf("%s %s: %d", method, route.Prefix, status)
		}
	}
}

// ofProject writes a run of a project with one of everything that belongs to it,
// and gives the ids by field.
func (in *installation) ofProject(t *testing.T, project string) map[protoreflect.Name]string {
	t.Helper()
	run := "run-" + project
	ids := map[protoreflect.Name]string{"run_id": run, "incident_id": "inc-" + project, "finding_id": "fnd-" + project, "checkpoint_id": "ck-" + project}
	in.update(t, func(tx *store.Tx) error {
		err := tx.PutRun(&controlv1.Run{RunId: run, State: controlv1.RunState_RUN_STATE_RUNNING, Settings: map[string]string{"project": project}, Started: timestamppb.Now()}, 1)
		if err != nil {
			return err
		}
		if err := tx.PutIncident(store.IncidentRecord{Incident: &controlv1.Incident{
			IncidentId: ids["incident_id"], RunId: run, State: controlv1.IncidentState_INCIDENT_STATE_FIRING, Opened: timestamppb.Now(),
		}}); err != nil {
			return err
		}
		if err := tx.AddTimeline(ids["incident_id"], &controlv1.TimelineEntry{Time: timestamppb.Now(), Text: "it began"}); err != nil {
			return err
		}
		if _, err := tx.PutFinding(&controlv1.Finding{FindingId: ids["finding_id"], RunId: run, Created: timestamppb.Now()}); err != nil {
			return err
		}
		return tx.PutCheckpoint(&controlv1.Checkpoint{CheckpointId: ids["checkpoint_id"], RunId: run})
	})
	return ids
}

// naming gives a request of a method that names these, and how many of them.
func naming(t *testing.T, method string, ids map[protoreflect.Name]string) (proto.Message, int) {
	t.Helper()
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service + "." + name))
	if err != nil {
		t.Fatal(err)
	}
	request := dynamicpb.NewMessage(found.(protoreflect.MethodDescriptor).Input())
	named := 0
	for field, id := range ids {
		if f := request.Descriptor().Fields().ByName(field); f != nil && f.Kind() == protoreflect.StringKind && !f.IsList() {
			request.Set(f, protoreflect.ValueOfString(id))
			named++
		}
	}
	return request, named
}

// TestOtherProjects: whoever may see one project gets at nothing of another with
// any method, also where they name something of their own beside it, and at what
// is of their own with every method that the table gives them.
func TestOtherProjects(t *testing.T) {
	in := install(t)
	mine, theirs := in.ofProject(t, "llm"), in.ofProject(t, "vision")
	_, secret := in.token(t, time.Hour, []string{"llm"}, commonv1.Role_ROLE_ADMIN)
	methods := 0
	for _, rule := range access.Rules() {
		foreign, named := naming(t, rule.Method, theirs)
		if rule.Scope != commonv1.Scope_SCOPE_NAMED || named == 0 {
			continue
		}
		methods++
		if code := in.invokeWith(t, rule.Method, secret, foreign); code != codes.PermissionDenied {
			t.Errorf("%s on another project's: %v", rule.Method, code)
		}
		for field := range theirs {
			mixed := map[protoreflect.Name]string{}
			for name, id := range mine {
				mixed[name] = id
			}
			mixed[field] = theirs[field]
			request, _ := naming(t, rule.Method, mixed)
			if f := request.ProtoReflect().Descriptor().Fields().ByName(field); f == nil {
				continue
			}
			if code := in.invokeWith(t, rule.Method, secret, request); code != codes.PermissionDenied {
				t.Errorf("%s with another project's %s among its own: %v", rule.Method, field, code)
			}
		}
		own, _ := naming(t, rule.Method, mine)
		if code := in.invokeWith(t, rule.Method, secret, own); code == codes.PermissionDenied || code == codes.Unauthenticated {
			t.Errorf("%s on its own project's: %v", rule.Method, code)
		}
	}
	if methods < 10 {
		t.Errorf("only %d methods name what is of a project", methods)
	}
}
