package authority

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"math"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/audit"
	"github.com/vigil-ml/vigil/controlplane/audit/trail"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/pki"
	"github.com/vigil-ml/vigil/internal/protocol"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const (
	defaultJoinTime = time.Hour
	longestJoinTime = 30 * 24 * time.Hour
	mostUses        = 100000
	// A wrong join token is a guess: so many at once, then one in that time,
	// from all of the network together.
	joinGuesses = 20
	joinRefill  = time.Second
)

// Deps is what code injects.
type Deps struct {
	Store *store.Store
	Audit *audit.Log
	Log   *slog.Logger
	Clock func() time.Time
}

// Authority lets nodes in. It is safe for concurrent use.
type Authority struct {
	agentv1.UnimplementedEnrollmentServiceServer

	config  Config
	deps    Deps
	ca      *ca
	guesses *rate.Limiter
	workers *life.Workers

	mu      sync.Mutex
	streams map[*stream]struct{}
}

// Open opens the authority, and makes it when there is none.
func Open(config Config, deps Deps) (*Authority, error) {
	ca, err := openCA(config, deps.Clock)
	if err != nil {
		return nil, err
	}
	return &Authority{
		config: config, deps: deps, ca: ca, streams: map[*stream]struct{}{},
		guesses: rate.NewLimiter(rate.Every(joinRefill), joinGuesses), workers: life.NewWorkers(),
	}, nil
}

// TLS is how the agents' port speaks: TLS 1.3; who shows a certificate shows one
// of this authority, and who shows none may only join.
func (a *Authority) TLS() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(a.ca.cert)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		GetCertificate: (&server{ca: a.ca}).forClient, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool, Time: a.deps.Clock,
	}
}

// CreateJoinToken makes a token with which a node joins; any node that has not
// joined before when none is named. Lifetime 0 is an hour, uses 0 is one.
func (a *Authority) CreateJoinToken(tx *store.Tx, node string, lifetime time.Duration, uses int32) (secret string, expires time.Time, err error) {
	return a.putJoinToken(tx, store.JoinToken{Node: node, Uses: int64(uses)}, lifetime)
}

// putJoinToken completes a token and writes it.
func (a *Authority) putJoinToken(tx *store.Tx, token store.JoinToken, lifetime time.Duration) (secret string, expires time.Time, err error) {
	if lifetime == 0 {
		lifetime = defaultJoinTime
	}
	if token.Uses == 0 {
		token.Uses = 1
	}
	switch {
	case lifetime < 0 || lifetime > longestJoinTime:
		return "", expires, fault.New(fault.Invalid, "lifetime is %v; want up to %v", lifetime, longestJoinTime)
	case token.Uses < 0 || token.Uses > mostUses:
		return "", expires, fault.New(fault.Invalid, "uses is %d; want 1 to %d", token.Uses, mostUses)
	}
	if token.Node != "" {
		if err := protocol.CheckNode(token.Node); err != nil {
			return "", expires, err
		}
	}
	now := a.deps.Clock()
	shown := pki.JoinToken{ID: strings.ToLower(rand.Text()[:10]), Secret: rand.Text(), Pin: pki.Pin(a.ca.cert)}
	expires = now.Add(lifetime)
	if err := tx.ForgetJoinTokens(now); err != nil {
		return "", expires, err
	}
	token.ID, token.Hash, token.Expires = shown.ID, hashOf(shown.Secret), expires
	return shown.String(), expires, tx.PutJoinToken(token)
}

// LocalJoinToken makes the token for the agents of this machine's own user, good
// for as long as a token can be. Who can read it can read the authority's key too:
// it lets a node in that has joined before, but none that was revoked.
func (a *Authority) LocalJoinToken(ctx context.Context) (secret string, err error) {
	err = a.deps.Store.Update(ctx, func(tx *store.Tx) (err error) {
		secret, _, err = a.putJoinToken(tx, store.JoinToken{Rejoins: true, Uses: math.MaxInt16}, longestJoinTime)
		return err
	})
	return secret, err
}

func hashOf(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// Join gives a node its first certificate for a token.
func (a *Authority) Join(ctx context.Context, in *agentv1.JoinRequest) (*agentv1.JoinResponse, error) {
	record := trail.Record{
		Class: trail.SignIn, Actor: trail.Actor{Kind: "node", ID: in.Node, Auth: "join token"}, Action: "vigil.agent.v1.EnrollmentService/Join",
		Outcome: "ok", Object: map[string]string{"node": in.Node},
	}
	if protocol.CheckNode(in.Node) != nil {
		return nil, fault.GRPC(fault.New(fault.Invalid, "join: the node's name is not one"))
	}
	if a.guesses.TokensAt(a.deps.Clock()) < 1 {
		return nil, fault.GRPC(fault.New(fault.Exhausted, "join: too many wrong tokens; try again later"))
	}
	var chain [][]byte
	err := a.deps.Store.Update(ctx, func(tx *store.Tx) (err error) {
		if err := a.redeem(tx, in); err != nil {
			return err
		}
		if chain, err = a.issue(tx, in.Node, in.Csr); err != nil {
			return err
		}
		return a.deps.Audit.Append(tx, record)
	})
	if err != nil {
		wrong := fault.Is(err, fault.Unauthenticated)
		if wrong {
			a.guesses.AllowN(a.deps.Clock(), 1)
		}
		if wrong || fault.Is(err, fault.Denied) {
			record.Outcome, record.Actor = fault.KindOf(err).String(), trail.Actor{Kind: "nobody", ID: "unknown"}
			if err := a.deps.Audit.Write(ctx, record); err != nil {
				a.deps.Log.Error("a node that was refused is not in the audit log", "node", in.Node, "error", err)
			}
		}
		return nil, fault.GRPC(err)
	}
	a.deps.Log.Info("node joined", "node", in.Node)
	return &agentv1.JoinResponse{Chain: chain}, nil
}

// redeem takes one use of a token.
func (a *Authority) redeem(tx *store.Tx, in *agentv1.JoinRequest) error {
	asked, err := pki.ParseJoinToken(in.Token)
	if err != nil {
		return fault.New(fault.Unauthenticated, "join: %w", err)
	}
	token, err := tx.JoinToken(asked.ID)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	switch {
	case err != nil || subtle.ConstantTimeCompare(token.Hash, hashOf(asked.Secret)) != 1:
		return fault.New(fault.Unauthenticated, "join: the token is not known")
	case !a.deps.Clock().Before(token.Expires):
		return fault.New(fault.Unauthenticated, "join: the token has expired")
	case token.Node != "" && token.Node != in.Node:
		return fault.New(fault.Unauthenticated, "join: the token is for another node")
	}
	if err := mayTake(tx, token, in.Node); err != nil {
		return err
	}
	left, err := tx.UseJoinToken(asked.ID)
	if err == nil && !left {
		err = fault.New(fault.Unauthenticated, "join: the token was used already")
	}
	return err
}

// mayTake refuses a node's name to a token that was not made for it, when the
// name is taken: who has a token for any new node must not become one that is
// there, nor let one back in that was revoked.
func mayTake(tx *store.Tx, token store.JoinToken, node string) error {
	if token.Node != "" {
		return nil
	}
	last, found, err := tx.LastCertificate(node)
	if err != nil || !found {
		return err
	}
	switch {
	case !last.Revoked.IsZero():
		return fault.WithHint(fault.New(fault.Denied, "join: node %s was revoked, and the token is not for it alone", node), hintJoinAgain(node))
	case !token.Rejoins:
		return fault.WithHint(fault.New(fault.Denied, "join: node %s has joined before, and the token is not for it alone", node), hintJoinAgain(node))
	}
	return nil
}

// issue makes a node's certificate and notes it.
func (a *Authority) issue(tx *store.Tx, node string, csr []byte) (chain [][]byte, err error) {
	key, err := keyOf(csr)
	if err != nil {
		return nil, err
	}
	cert, err := a.ca.issue(key, pki.Node(node), a.config.NodeLifetime, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth})
	if err != nil {
		return nil, err
	}
	now := a.deps.Clock()
	if err := tx.ForgetCertificates(now.Add(-longestJoinTime)); err != nil {
		return nil, err
	}
	err = tx.PutCertificate(store.Certificate{Serial: serialOf(cert), Node: node, Issued: now, Expires: cert.NotAfter})
	return [][]byte{cert.Raw, a.ca.cert.Raw}, err
}

// Renew gives a node that is known a new certificate.
func (a *Authority) Renew(ctx context.Context, in *agentv1.RenewRequest) (*agentv1.RenewResponse, error) {
	node, cert, err := shown(ctx)
	if err != nil {
		return nil, fault.GRPC(err)
	}
	out := &agentv1.RenewResponse{}
	err = a.deps.Store.Update(ctx, func(tx *store.Tx) (err error) {
		// In the transaction that issues: one that revokes comes before it or behind.
		if err := a.good(tx, node, cert); err != nil {
			return err
		}
		if out.Chain, err = a.issue(tx, node, in.Csr); err != nil {
			return err
		}
		return a.deps.Audit.Append(tx, trail.Record{
			Class: trail.Key, Actor: trail.Actor{Kind: "node", ID: node, Auth: "certificate"}, Action: "vigil.agent.v1.EnrollmentService/Renew",
			Outcome: "ok", Object: map[string]string{"node": node},
		})
	})
	if err != nil {
		return nil, fault.GRPC(err)
	}
	return out, nil
}

// Caller gives the node that calls, or refuses a call of nobody who is known.
func (a *Authority) Caller(ctx context.Context) (node string, err error) {
	node, _, err = a.known(ctx)
	return node, err
}

// known gives the node that calls, by a certificate that is good and not
// revoked.
func (a *Authority) known(ctx context.Context) (node string, cert *x509.Certificate, err error) {
	if node, cert, err = shown(ctx); err != nil {
		return "", nil, err
	}
	return node, cert, a.deps.Store.View(ctx, func(tx *store.Tx) error { return a.good(tx, node, cert) })
}

// shown gives the certificate of the connection, and the node that it is of.
func shown(ctx context.Context) (node string, cert *x509.Certificate, err error) {
	from, _ := peer.FromContext(ctx)
	if from == nil {
		return "", nil, fault.New(fault.Unauthenticated, "nobody calls")
	}
	info, ok := from.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return "", nil, fault.WithHint(fault.New(fault.Unauthenticated, "the agent shows no certificate"),
			"have it join: agentctl join-token create, then vigil-agent join")
	}
	cert = info.State.VerifiedChains[0][0]
	node, err = pki.NodeOf(cert)
	return node, cert, err
}

// good refuses a certificate that was not issued here, was revoked, or has run out.
func (a *Authority) good(tx *store.Tx, node string, cert *x509.Certificate) error {
	issued, err := tx.Certificate(serialOf(cert))
	switch {
	case fault.Is(err, fault.NotFound):
		return fault.New(fault.Unauthenticated, "the certificate of node %s is not one that was issued here", node)
	case err != nil:
		return err
	case !issued.Revoked.IsZero():
		return errRevoked(node)
	case !a.deps.Clock().Before(issued.Expires):
		return errExpired(node)
	}
	return nil
}

// serialOf is a certificate's number as the store has it.
func serialOf(cert *x509.Certificate) string { return cert.SerialNumber.Text(16) }

func hintJoinAgain(node string) string {
	return "a token of its own lets it in: agentctl join-token create --node " + node + ", then vigil-agent join there"
}

func errRevoked(node string) error {
	return fault.WithHint(fault.New(fault.Denied, "the certificate of node %s was revoked", node), hintJoinAgain(node))
}

func errExpired(node string) error {
	return fault.WithHint(fault.New(fault.Unauthenticated, "the certificate of node %s has expired", node), hintJoinAgain(node))
}

// List gives the certificates that have not expired, the newest first.
func (a *Authority) List(tx *store.Tx) ([]*controlv1.NodeCertificate, error) {
	found, err := tx.Certificates("", a.deps.Clock())
	if err != nil {
		return nil, err
	}
	var out []*controlv1.NodeCertificate
	for _, c := range found {
		one := &controlv1.NodeCertificate{
			Node: c.Node, Serial: c.Serial, SpiffeId: pki.Node(c.Node).String(), Issued: timestamppb.New(c.Issued), Expires: timestamppb.New(c.Expires),
		}
		if !c.Revoked.IsZero() {
			one.Revoked = timestamppb.New(c.Revoked)
		}
		out = append(out, one)
	}
	return out, nil
}

// Revoke makes the certificates that a node has, and the join tokens that were
// made for it, good for nothing. Its streams are cut when the transaction has been
// committed. Only a token that is made for it afterwards lets it in again.
func (a *Authority) Revoke(tx *store.Tx, node string) (certificates int32, err error) {
	now := a.deps.Clock()
	if err := tx.ForgetJoinTokens(now); err != nil {
		return 0, err
	}
	tokens, err := tx.ForgetJoinTokensOf(node)
	if err != nil {
		return 0, err
	}
	n, err := tx.RevokeCertificates(node, now)
	if err == nil && n+tokens == 0 {
		err = fault.WithHint(fault.New(fault.NotFound, "node %q has no certificate that is good, and no join token", node), "agentctl identities list lists them")
	}
	return int32(n), err
}
