package access

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/controlplane/audit/trail"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Rule says who may use a method, and how that is recorded.
type Rule struct {
	Method  string // /package.Service/Method
	Role    commonv1.Role
	Class   trail.Class
	Scope   commonv1.Scope
	Outside bool // recorded before it is done
}

// classOf turns the proto's audit class into that of records.
func classOf(class commonv1.AuditClass) trail.Class {
	switch class {
	case commonv1.AuditClass_AUDIT_CLASS_READ:
		return trail.Read
	case commonv1.AuditClass_AUDIT_CLASS_ACT:
		return trail.Act
	case commonv1.AuditClass_AUDIT_CLASS_KEY:
		return trail.Key
	case commonv1.AuditClass_AUDIT_CLASS_EXPORT:
		return trail.Export
	default: // what nobody classed counts as the gravest
		return trail.Admin
	}
}

// Rules gives the rule of every method of vigil.control.v1, by service and name.
func Rules() []Rule {
	var rules []Rule
	services := controlv1.File_vigil_control_v1_services_proto.Package() // the package is linked in
	protoregistry.GlobalFiles.RangeFilesByPackage(services, func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				rules = append(rules, ruleOf(service, service.Methods().Get(j)))
			}
		}
		return true
	})
	slices.SortFunc(rules, func(a, b Rule) int { return strings.Compare(a.Method, b.Method) })
	return rules
}

func ruleOf(service protoreflect.ServiceDescriptor, method protoreflect.MethodDescriptor) Rule {
	rule, _ := proto.GetExtension(method.Options(), commonv1.E_Rule).(*commonv1.MethodRule)
	class := classOf(rule.GetAudit())
	return Rule{
		Method: fmt.Sprintf("/%s/%s", service.FullName(), method.Name()),
		Role:   rule.GetRole(), Class: class, Scope: rule.GetScope(), Outside: rule.GetOutside() || class == trail.Export,
	}
}

// Allows tells whether somebody may use the method at all; which runs they may
// use it on is another matter.
func (r Rule) Allows(i *Identity) bool {
	return i.Can(r.Role) && (len(i.Projects) == 0 || r.Scope != commonv1.Scope_SCOPE_UNSPECIFIED)
}

// Route says who may use HTTP paths that are no methods.
type Route struct {
	Prefix  string // of the path; one that ends without a slash is the whole path
	Methods string // "GET", or "*" for the others
	Role    commonv1.Role
	Class   trail.Class
	Open    Openness
}

// Openness says who needs no credential.
type Openness int

// The degrees.
const (
	Closed    Openness = iota // everyone needs one
	OnMachine                 // callers on this machine need none
	Public                    // nobody needs one: there is nothing to see
	Signed                    // the handler checks the caller's signature by itself
)

// Routes is the rule of every HTTP path; the first that fits counts.
func Routes() []Route {
	viewer, operator, admin := commonv1.Role_ROLE_VIEWER, commonv1.Role_ROLE_OPERATOR, commonv1.Role_ROLE_ADMIN
	return []Route{
		{"/healthz", "GET", 0, trail.Read, Public},
		{"/-/healthy", "GET", 0, trail.Read, Public},
		{"/-/ready", "GET", 0, trail.Read, Public},
		{SignInPath, "GET", 0, trail.Read, Public},
		{"/metrics", "GET", viewer, trail.Read, OnMachine},
		{"/readyz", "GET", 0, trail.Read, Public},
		{"/debug/pprof/", "GET", admin, trail.Admin, Closed},
		{"/api/v1/write", "*", operator, trail.Read, Closed}, // remote write: every few seconds
		{"/api/v1/admin/", "*", admin, trail.Admin, Closed},  // snapshots of samples
		{"/api/v1/", "GET", viewer, trail.Read, Closed},
		{"/api/v1/", "*", viewer, trail.Read, Closed}, // PromQL comes by POST too
		{"/api/v2/", "GET", viewer, trail.Read, Closed},
		{"/api/v2/", "*", operator, trail.Act, Closed},
		{"/ping/", "*", operator, trail.Act, Closed},
		{notify.CallbackPath, "*", operator, trail.Act, Signed},
	}
}

// routeOf finds a request's route; false where nothing is said of it.
func routeOf(routes []Route, r *http.Request) (Route, bool) {
	for _, route := range routes {
		fits := r.URL.Path == route.Prefix || (strings.HasSuffix(route.Prefix, "/") && strings.HasPrefix(r.URL.Path, route.Prefix))
		read := r.Method == http.MethodGet || r.Method == http.MethodHead
		if fits && (route.Methods == "*" || read) {
			return route, true
		}
	}
	return Route{}, false
}
