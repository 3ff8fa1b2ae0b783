package access

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// limitsMost bounds how many names have a limiter of their own.
const limitsMost = 10000

// limits is a token bucket for each of many names. It is bounded: when there are
// too many names, those whose bucket is full again are forgotten.
type limits struct {
	rate  rate.Limit
	burst int
	clock func() time.Time

	mu     sync.Mutex
	byName map[string]*rate.Limiter
}

func newLimits(perSecond float64, burst int, clock func() time.Time) *limits {
	return &limits{rate: rate.Limit(perSecond), burst: burst, clock: clock, byName: map[string]*rate.Limiter{}}
}

// take takes one token of a name; false when there is none.
func (l *limits) take(name string) bool { return l.of(name).AllowN(l.clock(), 1) }

// would tells whether take would succeed.
func (l *limits) would(name string) bool { return l.of(name).TokensAt(l.clock()) >= 1 }

func (l *limits) of(name string) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	limiter := l.byName[name]
	if limiter == nil {
		l.forget()
		limiter = rate.NewLimiter(l.rate, l.burst)
		l.byName[name] = limiter
	}
	return limiter
}

// forget makes room. When nobody's bucket is full, all are forgotten but for
// those that are empty: they are the ones that matter.
func (l *limits) forget() {
	if len(l.byName) < limitsMost {
		return
	}
	now := l.clock()
	for _, least := range []float64{float64(l.burst), 1} {
		for name, limiter := range l.byName {
			if limiter.TokensAt(now) >= least {
				delete(l.byName, name)
			}
		}
		if len(l.byName) < limitsMost {
			return
		}
	}
	clear(l.byName)
}
