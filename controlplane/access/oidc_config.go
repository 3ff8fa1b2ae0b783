package access

import (
	"net/url"
	"slices"

	"github.com/vigil-ml/vigil/internal/serve"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// OIDCConfig says where people sign in and what they may do then.
type OIDCConfig struct {
	// Issuer is the provider's URL, exactly as its tokens name it: https, or http
	// on loopback. Empty: nobody signs in.
	Issuer string `yaml:"issuer"`
	// ClientID is what the provider knows agentctl and the console as. Tokens must
	// be for it, or for one of Audiences.
	ClientID  string   `yaml:"client_id"`
	Audiences []string `yaml:"audiences"`
	// Scopes are what agentctl asks for. Default: openid, profile, email and
	// offline_access.
	Scopes []string `yaml:"scopes"`
	// CAFile has the authorities that the provider is known by, in PEM; empty is
	// the system's.
	CAFile string `yaml:"ca_file"`
	// NameClaim is what people are called by. Default: the first of
	// preferred_username, name, email and sub that there is.
	NameClaim string `yaml:"name_claim"`
	// Grants say what people may do. The first that fits somebody counts, and
	// nothing else; whom none fits may do nothing.
	Grants []Grant `yaml:"grants"`
}

// Grant gives those with a claim roles.
type Grant struct {
	// Claim is the claim's name; dots go into objects, as in realm_access.roles.
	// An email counts only where the provider says that it is verified.
	Claim string `yaml:"claim"`
	// Value is what the claim is, or has among its values.
	Value string `yaml:"value"`
	// Roles are what they get: viewer, operator, engineer, admin, auditor.
	Roles []string `yaml:"roles"`
	// Projects are what they may see; empty is all.
	Projects []string `yaml:"projects"`
}

// Check reports a provider that cannot be trusted, and grants of nothing.
func (c OIDCConfig) Check(report func(key, format string, args ...any)) {
	if c.Issuer == "" {
		if c.ClientID != "" || len(c.Grants) > 0 {
			report("issuer", "is empty; name the provider's URL")
		}
		return
	}
	u, err := url.Parse(c.Issuer)
	switch {
	case err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http"):
		report("issuer", "%q: want for instance https://id.example.org", c.Issuer)
	case u.Scheme == "http" && serve.Loopback(u.Host) != "":
		report("issuer", "%q: want https", c.Issuer)
	}
	if c.ClientID == "" {
		report("client_id", "is empty; name what the provider knows Vigil as")
	}
}

// Check reports a grant that gives nothing, or what there is not.
func (g Grant) Check(report func(key, format string, args ...any)) {
	if g.Claim == "" || g.Value == "" {
		report("claim", "claim and value must both be given")
	}
	if len(g.Roles) == 0 {
		report("roles", "is empty; name at least one role")
	}
	for _, name := range g.Roles {
		if _, ok := RoleOf(name); !ok {
			report("roles", "%q is no role; there are viewer, operator, engineer, admin and auditor", name)
		}
	}
	if slices.Contains(g.Projects, "") {
		report("projects", "a project's name is empty")
	}
}

// roles gives the grant's roles.
func (g Grant) roles() (out []commonv1.Role) {
	for _, name := range g.Roles {
		if role, ok := RoleOf(name); ok {
			out = append(out, role)
		}
	}
	return out
}
