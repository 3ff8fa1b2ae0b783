package access

import (
	"sync"
	"time"
)

// sessionsMost bounds how many sign-ins are remembered; whoever is forgotten is
// recorded once more.
const sessionsMost = 10000

// sessions remembers what people signed in with, until it expires.
type sessions struct {
	clock func() time.Time

	mu    sync.Mutex
	until map[string]time.Time
}

func newSessions(clock func() time.Time) *sessions {
	return &sessions{clock: clock, until: map[string]time.Time{}}
}

// first tells whether a session is seen for the first time.
func (s *sessions) first(session string, expires time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.until[session]; ok {
		return false
	}
	if len(s.until) >= sessionsMost {
		now := s.clock()
		for name, until := range s.until {
			if !until.After(now) {
				delete(s.until, name)
			}
		}
	}
	if len(s.until) >= sessionsMost {
		clear(s.until)
	}
	s.until[session] = expires
	return true
}

// forget has a session be seen for the first time again.
func (s *sessions) forget(session string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.until, session)
}
