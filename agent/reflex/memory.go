package reflex

import (
	"time"

	"github.com/vigil-ml/vigil/internal/metric"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

const (
	// memoryPoints is how many figures a forecast looks back on.
	memoryPoints = 6
	// memoryLittle is the share of memory below which a forecast counts: above
	// it a steep fall is a program that starts.
	memoryLittle = 0.25
	// memoryLeast is the share below which no forecast is needed.
	memoryLeast = 0.02
	// maxScopes bounds the runs whose memory is followed.
	maxScopes = 256
)

// Series of a job's control group; agent/collect/cgroup measures them. What no
// file stands behind is what the kernel cannot take back.
const (
	cgroupLimit  = "vigil_cgroup_memory_limit_bytes"
	cgroupAnon   = "vigil_cgroup_memory_anonymous_bytes"
	cgroupShared = "vigil_cgroup_memory_shared_bytes"
)

// memory is what is known of the memory of the node or of a run's job here.
type memory struct {
	total, available float64 // bytes; of the node
	anon, shared     float64 // of a control group; its limit is total
	at               time.Time
	history          []point // the oldest first
}

// point is what was available at a time.
type point struct {
	at        time.Time
	available float64 // bytes
}

// Sampled takes the samples of one collection, and forecasts from those about
// memory. It does not block.
func (r *Reflex) Sampled(samples []metric.Sample) {
	changed := map[string]bool{}
	r.mu.Lock()
	for _, s := range samples {
		scope, known := "", true
		if len(s.Labels) > 0 {
			scope = s.Labels[0]
		}
		switch s.Def.Name {
		case metric.HostMemoryTotal.Name:
			r.scope("").total = s.Value
		case metric.HostMemoryAvailable.Name:
			r.scope("").available = s.Value
		case cgroupLimit:
			r.scope(scope).total = s.Value
		case cgroupAnon:
			r.scope(scope).anon = s.Value
		case cgroupShared:
			r.scope(scope).shared = s.Value
		default:
			known = false
		}
		if known {
			r.scope(scope).at = s.Time
			changed[scope] = true
		}
	}
	var short []string
	for scope := range changed {
		if r.memory[scope].runsOut(scope != "", r.config.MemoryHorizon) {
			short = append(short, scope)
		}
	}
	r.mu.Unlock()
	for _, scope := range short {
		r.offerTo(r.runsOf(scope), cause{
			kind: kindMemory, since: r.deps.Clock(), failure: commonv1.FailureKind_FAILURE_KIND_HOST_OOM,
			what: "memory is about to run out",
		})
	}
}

// scope gives what is known of the node ("") or a run; r.mu is held. Of too
// many runs some are forgotten, and begin again.
func (r *Reflex) scope(name string) *memory {
	m := r.memory[name]
	if m == nil {
		for other := range r.memory {
			if len(r.memory) < maxScopes {
				break
			}
			delete(r.memory, other)
		}
		m = &memory{}
		r.memory[name] = m
	}
	return m
}

// runsOut adds a figure and tells whether memory will have run out within the
// horizon, by the line from the oldest figure to this one.
func (m *memory) runsOut(group bool, horizon time.Duration) bool {
	available := m.available
	if group {
		available = m.total - m.anon - m.shared
	}
	if m.total <= 0 || (group && m.anon == 0) || (!group && available == 0) {
		return false // not all is known
	}
	if n := len(m.history); n > 0 && !m.at.After(m.history[n-1].at) {
		return false
	}
	if len(m.history) == memoryPoints {
		m.history = append(m.history[:0], m.history[1:]...)
	}
	m.history = append(m.history, point{m.at, available})
	if available < memoryLeast*m.total {
		return true
	}
	oldest := m.history[0]
	fell := oldest.available - available
	if len(m.history) < 3 || available > memoryLittle*m.total || fell <= 0 {
		return false
	}
	left := time.Duration(available / fell * float64(m.at.Sub(oldest.at)))
	return left < horizon
}
