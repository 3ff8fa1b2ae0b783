package journal

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/agent/spool"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// maxTaken bounds the event ids that are remembered; at 16 bytes each they and
// their table stay below 4 MiB. A trainer sends an event again within seconds.
const maxTaken = 64 << 10

// mark stands for an event's run and id. An id alone would let one run have
// another's event left out.
type mark [16]byte

func markOf(event *commonv1.Event) mark {
	sum := sha256.Sum256([]byte(event.RunId + "\x00" + event.EventId))
	return mark(sum[:16])
}

// taken knows the events that were taken lately, so that one that a trainer
// sends again, having missed the answer, is not there twice. It forgets the
// oldest. All methods are safe for concurrent use.
type taken struct {
	most int

	mu     sync.Mutex
	known  map[mark]bool
	ring   []mark // of known, in the order in which they came; next is the oldest once it is full
	next   int
	within map[mark]chan struct{} // on their way to the disk; closed when that has ended
}

func newTaken(most int) *taken {
	return &taken{most: most, known: map[mark]bool{}, within: map[mark]chan struct{}{}}
}

// claim gives the events that are new. It waits for those that another call
// has on its way: only when that one succeeds are they not the caller's to
// write. The caller calls release when it has written, whether it could or not.
func (t *taken) claim(ctx context.Context, events []*commonv1.Event) (fresh []*commonv1.Event, release func(), err error) {
	for {
		fresh, release, busy := t.try(events)
		if busy == nil {
			return fresh, release, nil
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

func (t *taken) try(events []*commonv1.Event) (fresh []*commonv1.Event, release func(), busy chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, event := range events {
		if busy := t.within[markOf(event)]; busy != nil {
			return nil, nil, busy
		}
	}
	done := make(chan struct{})
	var mine []mark
	for _, event := range events {
		m := markOf(event)
		if t.known[m] || t.within[m] != nil {
			continue
		}
		t.within[m] = done
		mine, fresh = append(mine, m), append(fresh, event)
	}
	return fresh, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		for _, m := range mine {
			delete(t.within, m)
		}
		close(done)
	}, nil
}

// add remembers events that are in the spool.
func (t *taken) add(events []*commonv1.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, event := range events {
		m := markOf(event)
		if t.known[m] {
			continue
		}
		t.known[m] = true
		if len(t.ring) < t.most {
			t.ring = append(t.ring, m)
			continue
		}
		delete(t.known, t.ring[t.next])
		t.ring[t.next] = m
		t.next = (t.next + 1) % t.most
	}
}

// seed remembers what an earlier agent took. A frame that cannot be decoded is
// left to the uplink, which says so.
func (t *taken) seed(from EventSpool) error {
	err := from.Each(func(record spool.Record) error {
		frame := &agentv1.Frame{}
		if proto.Unmarshal(record.Payload, frame) == nil {
			t.add(frame.GetEvents().GetEvents())
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read taken events: %w", err)
	}
	return nil
}
