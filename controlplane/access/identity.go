// Package access says who comes in and what they may do.
//
// Every call is answered for somebody: an [Identity], which one of the
// authenticators makes of what the caller brings. The rule of a method stands in
// its proto option, that of an HTTP route in [Routes]; what has no rule is
// refused. [Guard] holds both, and has each call that changes something, and
// each that is refused, recorded in the audit log.
//
// docs/access.md says how it looks from outside, docs/reference/access.md has
// the table of methods and roles.
package access

import (
	"context"
	"slices"
	"time"

	"github.com/vigil-ml/vigil/controlplane/audit/trail"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// Identity is who came in. Its fields do not change.
type Identity struct {
	Kind     string // user, token, local, receiver
	ID       string // within the kind; of a user a pseudonym
	Name     string // as people call them
	Email    string // of a user, as the provider says; may be empty
	Login    string // what a user signs in as, there; may be empty
	Auth     string // how they proved it
	Roles    []commonv1.Role
	Projects []string  // that they may see; empty means all
	Source   string    // the address they came from
	Expires  time.Time // until when they are known; zero is no bound
	Session  string    // names what they signed in with, where that is to be recorded
}

// Subject names the identity: kind/id.
func (i *Identity) Subject() string { return i.Kind + "/" + i.ID }

// KindUser is the kind of people.
const KindUser = "user"

// Author is who records say wrote something. Of people it is the pseudonym, in
// whose place the name is put when it is read, so that it can be forgotten. The
// local administrator may have said on whose behalf.
func (i *Identity) Author(said string) string {
	switch {
	case i == nil:
		return said
	case i.Kind == KindUser:
		return i.Subject()
	case i.Kind == "local" && said != "":
		return said
	}
	return i.Name
}

// personalOf is what a record says of who calls from an address, besides their
// pseudonym; nobody's address counts too.
func personalOf(i *Identity, address string) map[string]string {
	said := map[string]string{"address": address}
	if i != nil && i.Kind == KindUser {
		for key, value := range map[string]string{"name": i.Name, "email": i.Email, "login": i.Login} {
			if value != "" {
				said[key] = value
			}
		}
	}
	return said
}

// Actor is the identity as the audit log names it.
func (i *Identity) Actor() trail.Actor {
	if i == nil {
		return trail.Actor{Kind: "nobody", ID: "unknown"}
	}
	return trail.Actor{Kind: i.Kind, ID: i.ID, Auth: i.Auth}
}

// Sees tells whether the identity may see a project.
func (i *Identity) Sees(project string) bool {
	return len(i.Projects) == 0 || slices.Contains(i.Projects, project)
}

// Can tells whether one of the identity's roles holds what a rule asks for. Each
// of viewer, operator, engineer and admin holds those before it; an auditor
// holds none of them, and none of them holds the auditor.
func (i *Identity) Can(role commonv1.Role) bool {
	switch role {
	case commonv1.Role_ROLE_UNSPECIFIED:
		return false
	case commonv1.Role_ROLE_ANYONE:
		return true
	case commonv1.Role_ROLE_AUDITOR:
		return slices.Contains(i.Roles, role)
	}
	return slices.ContainsFunc(i.Roles, func(has commonv1.Role) bool {
		return has >= role && has <= commonv1.Role_ROLE_ADMIN
	})
}

type identityKey struct{}

// With gives a context in which somebody calls.
func With(ctx context.Context, i *Identity) context.Context {
	return context.WithValue(ctx, identityKey{}, i)
}

// Of gives who calls; nil where nobody does, for instance in the pipeline.
func Of(ctx context.Context) *Identity {
	i, _ := ctx.Value(identityKey{}).(*Identity)
	return i
}

// GivenRoles lists the roles that somebody can be given, the least first.
func GivenRoles() []commonv1.Role {
	return []commonv1.Role{
		commonv1.Role_ROLE_VIEWER, commonv1.Role_ROLE_OPERATOR, commonv1.Role_ROLE_ENGINEER, commonv1.Role_ROLE_ADMIN,
		commonv1.Role_ROLE_AUDITOR,
	}
}
