package localapi

import (
	"context"
	"os"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/serve"
)

// superuser may do everything on a machine anyway.
const superuser = 0

// caller gives the user whose process calls, as the kernel has it. A call within
// the agent is the agent's own.
func (a *API) caller(ctx context.Context) (int, error) {
	uid, known, called := serve.PeerUser(ctx)
	switch {
	case !called:
		return os.Getuid(), nil
	case !known:
		a.peers.Inc()
		return 0, fault.New(fault.Unauthenticated, "the kernel does not say whose process calls")
	}
	return uid, nil
}

// User gives whose process it is: nil for the agent's own user's, and for root's,
// which can do everything itself.
func (s *Session) User() *int {
	if s.uid == os.Getuid() || s.uid == superuser {
		return nil
	}
	return &s.uid
}

// claim has a run be of the user whose process registered it first; another
// user's is refused.
func (a *API) claim(ctx context.Context, runID string) (uid int, err error) {
	uid, err = a.caller(ctx)
	if err != nil {
		return 0, err
	}
	owner, ok := a.book.claim(runID, uid, a.deps.Clock())
	if !ok {
		return 0, fault.New(fault.Exhausted, "this node has %d open runs of other users", maxRuns)
	}
	if owner != uid && uid != superuser {
		return 0, a.refusePeer(uid, "run %q is another user's on this node", runID)
	}
	return uid, nil
}

// session finds the session of a call, of which only its own user may speak.
func (a *API) session(ctx context.Context, id string) (*Session, error) {
	s, err := a.sessions.get(id)
	if err != nil {
		return nil, err
	}
	uid, err := a.caller(ctx)
	if err != nil {
		return nil, err
	}
	if uid != s.uid && uid != superuser {
		return nil, a.refusePeer(uid, "the session is of another user's process")
	}
	return s, nil
}

func (a *API) refusePeer(uid int, format string, args ...any) error {
	a.peers.Inc()
	err := fault.New(fault.Denied, format, args...)
	a.warnOf(uid, err)
	return err
}
