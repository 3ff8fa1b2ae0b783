package access

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// tokenPrefix begins every token's secret, so that one that got into a place
// where it should not be is found: vgl_ID_SECRET.
const tokenPrefix = "vgl_"

const (
	defaultLifetime = 90 * 24 * time.Hour
	longestLifetime = 366 * 24 * time.Hour
	nameMost        = 64
	projectsMost    = 100
)

const hintTokens = "agentctl access tokens lists the tokens"

// Tokens is what programs come in with. Of a token's secret the store has the
// SHA-256 alone: the secret has 130 random bits, so that there is nothing to
// guess. It is an [Authenticator], and safe for concurrent use.
type Tokens struct {
	store *store.Store
	clock func() time.Time
}

// NewTokens gives the tokens of a store.
func NewTokens(s *store.Store, clock func() time.Time) *Tokens { return &Tokens{s, clock} }

// Create makes a token for what it says of name, roles and projects.
func (t *Tokens) Create(tx *store.Tx, asked *controlv1.Token, lifetime time.Duration, creator string) (secret string, err error) {
	if lifetime == 0 {
		lifetime = defaultLifetime
	}
	switch {
	case asked.Name == "" || len(asked.Name) > nameMost || !utf8.ValidString(asked.Name):
		return "", fault.New(fault.Invalid, "name of token has %d bytes; want 1 to %d", len(asked.Name), nameMost)
	case len(asked.Roles) == 0:
		return "", fault.New(fault.Invalid, "the token has no role; give at least one")
	case len(asked.Projects) > projectsMost:
		return "", fault.New(fault.Invalid, "the token has %d projects; at most %d", len(asked.Projects), projectsMost)
	case lifetime < 0 || lifetime > longestLifetime:
		return "", fault.New(fault.Invalid, "lifetime is %v; want up to %v", lifetime, longestLifetime)
	}
	for _, role := range asked.Roles {
		if !slices.Contains(GivenRoles(), role) {
			return "", fault.New(fault.Invalid, "role %v is not one that can be given", role)
		}
	}
	if slices.Contains(asked.Projects, "") {
		return "", fault.New(fault.Invalid, "a project's name is empty")
	}
	now := t.clock()
	id, random := strings.ToLower(rand.Text()[:10]), rand.Text()
	asked.TokenId, asked.Creator = id, creator
	asked.Created, asked.Expires, asked.Revoked = timestamppb.New(now), timestamppb.New(now.Add(lifetime)), nil
	return tokenPrefix + id + "_" + random, tx.PutToken(asked, hashOf(random))
}

func hashOf(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// Revoke makes a token good for nothing. One that is already is left as it is.
func (t *Tokens) Revoke(tx *store.Tx, id string) (*controlv1.Token, error) {
	token, _, err := tx.Token(id)
	if fault.Is(err, fault.NotFound) {
		return nil, fault.WithHint(fault.New(fault.NotFound, "there is no token %q", id), hintTokens)
	}
	if err != nil || token.Revoked != nil {
		return token, err
	}
	token.Revoked = timestamppb.New(t.clock())
	return token, tx.PutToken(token, nil)
}

// List gives the tokens, the newest first; those that have ended only when asked.
func (t *Tokens) List(tx *store.Tx, ended bool) ([]*controlv1.Token, error) {
	all, err := tx.Tokens()
	if ended || err != nil {
		return all, err
	}
	now := t.clock()
	return slices.DeleteFunc(all, func(token *controlv1.Token) bool { return over(token, now) }), nil
}

func over(t *controlv1.Token, now time.Time) bool {
	return t.Revoked != nil || !now.Before(t.GetExpires().AsTime())
}

// Authenticate knows who brings a token.
func (t *Tokens) Authenticate(ctx context.Context, c Credential) (*Identity, error) {
	rest, ok := strings.CutPrefix(c.Bearer, tokenPrefix)
	if !ok {
		return nil, nil
	}
	id, secret, _ := strings.Cut(rest, "_")
	var token *controlv1.Token
	var hash []byte
	err := t.store.View(ctx, func(tx *store.Tx) (err error) {
		token, hash, err = tx.Token(id)
		return err
	})
	if err != nil && !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	good := subtle.ConstantTimeCompare(hash, hashOf(secret)) == 1
	switch {
	case err != nil || !good:
		return nil, fault.New(fault.Unauthenticated, "the token is not known")
	case token.Revoked != nil:
		return nil, fault.New(fault.Unauthenticated, "token %s was revoked", id)
	case over(token, t.clock()):
		return nil, fault.New(fault.Unauthenticated, "token %s has expired", id)
	}
	return &Identity{
		Kind: "token", ID: id, Name: token.Name, Auth: "token", Roles: token.Roles, Projects: token.Projects,
		Expires: token.GetExpires().AsTime(),
	}, nil
}

// Local knows callers of the control plane's own user on this machine by a
// secret that only they can read; see internal/localkey. They are the local
// administrator.
type Local struct{ hash []byte }

// localPrefix begins the secret of the local administrator.
const localPrefix = "vgllocal_"

// NewLocal makes the secret of one start of the control plane.
func NewLocal() (local *Local, secret string) {
	secret = localPrefix + rand.Text()
	return &Local{hashOf(secret)}, secret
}

// Authenticate knows who brings the secret.
func (l *Local) Authenticate(_ context.Context, c Credential) (*Identity, error) {
	if !strings.HasPrefix(c.Bearer, localPrefix) {
		return nil, nil
	}
	if !c.Source.IsLoopback() || subtle.ConstantTimeCompare(l.hash, hashOf(c.Bearer)) != 1 {
		return nil, fault.WithHint(fault.New(fault.Unauthenticated, "the local secret is not that of this control plane"),
			"it is made anew at each start, and good on its machine only")
	}
	return localAdmin("local"), nil
}
