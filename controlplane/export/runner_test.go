package export_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/controlplane/export"
	"github.com/vigil-ml/vigil/internal/testkit"
)

// stub is an exporter that does as it is told.
type stub struct {
	mu    sync.Mutex
	judge func(export.Document) export.Verdict
	fails error
	taken map[string]int
}

func newStub() *stub {
	return &stub{judge: func(export.Document) export.Verdict { return export.Verdict{} }, taken: map[string]int{}}
}

func (s *stub) Export(_ context.Context, documents []export.Document) ([]export.Verdict, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails != nil {
		return nil, s.fails
	}
	verdicts := make([]export.Verdict, len(documents))
	for i, d := range documents {
		if verdicts[i] = s.judge(d); verdicts[i].Outcome == export.Taken {
			s.taken[d.ID]++
		}
	}
	return verdicts, nil
}

func (s *stub) Close() error { return nil }

func (s *stub) Streams() []string { return export.Streams() }

func (s *stub) set(fails error, judge func(export.Document) export.Verdict) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails = fails; judge != nil {
		s.judge = judge
	}
}

func (s *stub) count() int { s.mu.Lock(); defer s.mu.Unlock(); return len(s.taken) }

func (s *stub) twice() (ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, n := range s.taken {
		if n > 1 {
			ids = append(ids, id)
		}
	}
	return ids
}

func odd(d export.Document) bool {
	return d.Stream == export.StreamEvents && strings.HasSuffix(d.ID, "-3")
}

func TestWhatIsRefusedIsADeadLetterUntilItIsReplayed(t *testing.T) {
	p, s := newPlane(t), newStub()
	s.judge = func(d export.Document) export.Verdict {
		if odd(d) {
			return export.Verdict{Outcome: export.Refused, Reason: "cannot be mapped"}
		}
		return export.Verdict{}
	}
	p.start(s, time.Now)
	p.publish(10)
	dead := func() int {
		status, err := p.runner.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return status.Dead
	}
	testkit.Eventually(t, "documents and dead letters", func() bool { return s.count() == 40+3 && dead() == 10 })
	text, err := os.ReadFile(filepath.Join(p.dir, "exports", "search.dead.jsonl"))
	if err != nil || !strings.Contains(string(text), `"reason":"cannot be mapped"`) {
		t.Errorf("the file of dead letters: %v\n%s", err, text)
	}
	// The other side is away: the letters stay.
	s.set(errors.New("away"), nil)
	if _, err := p.runner.Replay(t.Context()); err == nil || dead() != 10 {
		t.Errorf("replay while it is away: %v, %d letters", err, dead())
	}
	// It refuses some still: those are letters again.
	s.set(nil, func(d export.Document) export.Verdict {
		if d.ID == "e-7-3" {
			return export.Verdict{Outcome: export.Refused, Reason: "still"}
		}
		return export.Verdict{}
	})
	done, err := p.runner.Replay(t.Context())
	if err != nil || done != (export.Replayed{Taken: 9, Refused: 1}) || dead() != 1 {
		t.Errorf("replay: %+v, %v, %d letters", done, err, dead())
	}
	s.set(nil, func(export.Document) export.Verdict { return export.Verdict{} })
	if done, err = p.runner.Replay(t.Context()); err != nil || done.Taken != 1 || dead() != 0 {
		t.Errorf("the last replay: %+v, %v, %d letters", done, err, dead())
	}
	if s.count() != 53 || len(s.twice()) > 0 {
		t.Errorf("%d documents; twice: %v", s.count(), s.twice())
	}
}

func TestOnlyWhatWasPutOffIsTriedAgain(t *testing.T) {
	p, s := newPlane(t), newStub()
	tries := map[string]int{}
	s.judge = func(d export.Document) export.Verdict {
		if tries[d.ID]++; odd(d) && tries[d.ID] < 3 {
			return export.Verdict{Outcome: export.Deferred, Reason: "queue full"}
		}
		return export.Verdict{}
	}
	p.start(s, time.Now)
	p.publish(4)
	testkit.Eventually(t, "all documents", func() bool { return s.count() == 23 })
	if twice := s.twice(); len(twice) > 0 {
		t.Errorf("taken twice: %v", twice)
	}
}

func TestWhatIsTriedForTooLongIsADeadLetterAndPeopleAreTold(t *testing.T) {
	p, s := newPlane(t), newStub()
	var mu sync.Mutex
	ahead := time.Duration(0)
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(ahead) }
	s.fails = errors.New("away")
	p.start(s, clock)
	p.publish(2)
	testkit.Eventually(t, "that it fails", func() bool {
		status, err := p.runner.Status(t.Context())
		return err == nil && status.Failing != "" && status.Lag > 0
	})
	mu.Lock()
	ahead = 2 * time.Hour
	mu.Unlock()
	testkit.Eventually(t, "that people are told", func() bool { return p.trouble.failing.Load() > 0 })
	testkit.Eventually(t, "dead letters", func() bool {
		status, err := p.runner.Status(t.Context())
		return err == nil && status.Dead == 13
	})
	s.set(nil, nil)
	done, err := p.runner.Replay(t.Context())
	if err != nil || done.Taken != 13 {
		t.Errorf("replay: %+v, %v", done, err)
	}
	testkit.Eventually(t, "that the end is told", func() bool { return p.trouble.well.Load() > 0 })
}

func TestTheFileOfDeadLettersIsBounded(t *testing.T) {
	p, s := newPlane(t), newStub()
	p.limits.DeadBytes = 64 << 10
	s.judge = func(export.Document) export.Verdict { return export.Verdict{Outcome: export.Refused, Reason: "no"} }
	p.start(s, time.Now)
	p.publish(300)
	testkit.Eventually(t, "the last frame", func() bool {
		status, err := p.runner.Status(t.Context())
		return err == nil && status.Cursors["events"] == 300
	})
	status, err := p.runner.Status(t.Context())
	if err != nil || status.Dead == 0 || status.Dead >= 1500 {
		t.Errorf("%d dead letters, %v", status.Dead, err)
	}
	if status.DeadBytes > p.limits.DeadBytes {
		t.Errorf("%d bytes of dead letters", status.DeadBytes)
	}
}
