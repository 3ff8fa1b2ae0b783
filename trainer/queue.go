package trainer

import (
	"slices"
	"sync"
	"time"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// maxQueuedEvents bounds events other than step reports; they are few.
const maxQueuedEvents = 256

// maxQueuedTelemetry bounds batches of spans and logs, of up to a megabyte each,
// which many more of come than of other events.
const maxQueuedTelemetry = 32

// item is one thing to report: a step, or an event that is built already.
type item struct {
	order uint64 // when it was put, among all items
	at    time.Time
	step  StepReport
	event *commonv1.Event
}

// queue holds what is to be reported, in order. Step reports live in a ring
// whose slots are used again, so that putting one allocates nothing; events
// have their own room, so that a flood of steps never drops an event, and what
// the process says of itself has one, so that it drops none either. Each drops
// its oldest when full. It is safe for concurrent use.
type queue struct {
	mu      sync.Mutex
	steps   []item // ring
	first   int    // oldest in steps
	count   int    // filled slots of steps
	events  []item
	said    []item // telemetry
	next    uint64 // order of the next item
	dropped int64  // since the queue was made
}

func newQueue(steps int) *queue { return &queue{steps: make([]item, steps)} }

// putStep adds a step report.
func (q *queue) putStep(at time.Time, report *StepReport) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.count == len(q.steps) {
		q.first = (q.first + 1) % len(q.steps)
		q.count--
		q.dropped++
	}
	slot := &q.steps[(q.first+q.count)%len(q.steps)]
	q.count++
	slot.copyStep(q.next, at, report)
	q.next++
}

// copyStep fills an item and keeps the room of its lists.
func (i *item) copyStep(order uint64, at time.Time, report *StepReport) {
	tasks, layers := append(i.step.Tasks[:0], report.Tasks...), append(i.step.Layers[:0], report.Layers...)
	i.order, i.at, i.step, i.event = order, at, *report, nil
	i.step.Tasks, i.step.Layers = tasks, layers
}

// putEvent adds an event.
func (q *queue) putEvent(event *commonv1.Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	room, most := &q.events, maxQueuedEvents
	if event.GetTelemetry() != nil {
		room, most = &q.said, maxQueuedTelemetry
	}
	if len(*room) == most {
		removeFirst(room)
		q.dropped++
	}
	*room = append(*room, item{order: q.next, event: event})
	q.next++
}

// removeFirst gives the first of a room and closes the gap.
func removeFirst(room *[]item) item {
	first := (*room)[0]
	*room = slices.Delete(*room, 0, 1)
	return first
}

// oldest gives the room that the oldest event is in; an empty one when there is
// none.
func (q *queue) oldest() *[]item {
	if len(q.events) == 0 || len(q.said) > 0 && q.said[0].order < q.events[0].order {
		return &q.said
	}
	return &q.events
}

// take moves the oldest items into the given slots and gives their number.
// The lock is held for as long as len(into) copies take: keep it small.
func (q *queue) take(into []item) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	for n := range into {
		events := q.oldest()
		switch {
		case q.count > 0 && (len(*events) == 0 || q.steps[q.first].order < (*events)[0].order):
			slot := &q.steps[q.first]
			into[n].copyStep(slot.order, slot.at, &slot.step)
			q.first = (q.first + 1) % len(q.steps)
			q.count--
		case len(*events) > 0:
			first := removeFirst(events)
			into[n].order, into[n].event = first.order, first.event
		default:
			return n
		}
	}
	return len(into)
}

// empty tells whether nothing waits.
func (q *queue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.count == 0 && len(*q.oldest()) == 0
}

// drops gives the number of items dropped since the queue was made.
func (q *queue) drops() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}

// drop counts items that left the queue and could not be reported.
func (q *queue) drop(items int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dropped += int64(items)
}
