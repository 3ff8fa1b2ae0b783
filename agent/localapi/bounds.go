package localapi

import (
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/serve"
)

const (
	// connBytes is the buffer of what a connection of a trainer reads.
	connBytes = 4 << 10
	// windowBytes is what a call may send without being read; a size that is set
	// does not grow.
	windowBytes = 64 << 10
	// headWait is the longest wait for what says what a connection is.
	headWait = 10 * time.Second
	// allUsers is how many times the connections of one user are taken of all.
	allUsers = 4
	// warnEach is how often the log says of a user that its processes are refused.
	warnEach  = time.Minute
	maxWarned = 1024 // users
)

// wait is how long a connection may take to say what it is.
func (a *API) wait() time.Duration { return min(headWait, a.config.CallTimeout) }

// serverOptions bounds what a process can take of the agent: it knows who calls
// before it reads what they say.
func (a *API) serverOptions() []grpc.ServerOption {
	calls := serve.Calls{User: a.config.MaxPerUser, Arrive: a.config.CallTimeout, Refused: func(uid int) {
		a.peers.Inc()
		a.warnOf(uid, fault.New(fault.Exhausted, "it has too many calls under way"))
	}}
	return append(calls.Options(),
		serve.PeerCredentials(),
		grpc.UnaryInterceptor(a.guardCall),
		grpc.StreamInterceptor(a.guardStream),
		grpc.StatsHandler(connections{a}),
		// Reports are small, and a node has many trainers.
		grpc.ReadBufferSize(connBytes),
		grpc.StaticStreamWindowSize(windowBytes),
		grpc.ConnectionTimeout(a.wait()),
		grpc.MaxConcurrentStreams(uint32(allUsers*a.config.MaxPerUser)), // all that speak JSON are one connection
	)
}

// bound has the socket hold so many connections.
func (a *API) bound(listener net.Listener) net.Listener {
	return serve.Bound(listener, serve.Bounds{
		User: a.config.MaxPerUser, Most: allUsers * a.config.MaxPerUser,
		Refused: func(why string, uid int) {
			a.conns.Inc()
			a.warnOf(uid, fault.New(fault.Exhausted, "%s", why))
		},
	})
}

// warned is which users the log has spoken of: whoever is refused can come again at
// once, and again.
type warned struct {
	mu sync.Mutex
	at map[int]time.Time
}

func (w *warned) due(uid int, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if last, ok := w.at[uid]; ok && now.Sub(last) < warnEach {
		return false
	}
	if w.at == nil || len(w.at) >= maxWarned {
		w.at = map[int]time.Time{}
	}
	w.at[uid] = now
	return true
}

// warnOf has the log say, once a minute for each user, that a process is refused.
func (a *API) warnOf(uid int, why error) {
	if a.warned.due(uid, a.deps.Clock()) {
		a.deps.Log.Warn("refuse a process", "uid", uid, "error", why)
	}
}
