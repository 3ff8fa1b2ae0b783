package pipeline

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/otel/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/controlplane/runs"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/protocol"
	"github.com/vigil-ml/vigil/internal/telemetry"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// reader is one pass over the bus, from its start to its first error.
type reader struct {
	*Pipeline
	bank   Bank
	cursor uint64 // the last frame whose effects are committed
	seen   uint64 // the last frame that was handed over

	open   []*controlv1.Finding // problems of nodes that were open at the cursor
	caught bool                 // the detectors have seen all up to the cursor
	marked time.Time            // when the last mark was made
	tide   tide
}

// memory is how far back the detectors of nodes look.
const memory = time.Duration(detect.NodeMemory * float64(time.Second))

// markEvery is how often a place on the bus is marked with its time.
const markEvery = memory / 12

// start gives the place from which on the bus is read: behind the cursor, or
// before it, at the first frame of a run that has not ended or where the last
// hour of the nodes' events begins.
func (r *reader) start(ctx context.Context) (from uint64, err error) {
	err = r.deps.Store.View(ctx, func(tx *store.Tx) error {
		if r.cursor, err = tx.Cursor(r.Name()); err != nil {
			return err
		}
		from = r.cursor + 1
		first, open, err := tx.FirstOpenSequence()
		if open {
			from = min(from, first)
		}
		if err != nil {
			return err
		}
		if r.open, err = tx.NodeProblems(""); err != nil {
			return err
		}
		mark, err := tx.ReplayMark(memory)
		if err == nil && mark > 0 {
			from = min(from, mark)
		}
		return err
	})
	return from, err
}

// handle takes frames: those up to the cursor only build the detectors' state
// again, the rest take effect, in one transaction. Frames that it has had
// already change nothing.
func (r *reader) handle(ctx context.Context, frames []bus.Delivery) error {
	var fresh []bus.Delivery
	for _, frame := range frames {
		if frame.Sequence <= r.seen {
			continue
		}
		r.seen = frame.Sequence
		if frame.Sequence > r.cursor {
			fresh = append(fresh, frame)
			continue
		}
		for _, event := range frame.Batch.GetEvents() {
			r.bank.Observe(event)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	began := r.deps.Clock()
	if !r.caught {
		r.bank.Restore(r.open)
		r.caught, r.open = true, nil
	}
	r.works(fresh[0].Received)
	b := &batch{reader: r, frames: fresh, seen: r.observe(fresh)}
	if err := r.deps.Store.Update(ctx, func(tx *store.Tx) error { return b.apply(ctx, tx) }); err != nil {
		return err
	}
	r.works(time.Time{})
	r.cursor, r.marked = r.seen, b.marked
	r.worked()
	r.metrics.committed(b, r.deps.Clock())
	rest := pause(r.deps.Clock().Sub(began), r.deps.Busy)
	if r.tide.gathers(len(b.findings), r.deps.Clock()) && len(frames) < bus.MaxDeliveries {
		rest = max(rest, gatherFor)
	}
	life.Sleep(ctx, rest)
	return nil
}

const (
	// shortBatch is what a batch takes at most that is no burden to others.
	shortBatch = 20 * time.Millisecond
	// longestPause bounds for how long others go first.
	longestPause = 250 * time.Millisecond
)

// pause is for how long agents go first after a batch. In a storm of events, which
// are safe on the bus, working on them would take all processors, and agents would
// wait for each frame: so half of the time is theirs. Where batches are short, as
// they are when no storm is, nothing waits.
func pause(took time.Duration, busy func() bool) time.Duration {
	if took <= shortBatch || busy == nil || !busy() {
		return 0
	}
	return min(took, longestPause)
}

// While very much breaks at once, frames gather for gatherFor between two
// transactions: each costs a sync, for which ingest waits too. More than
// tideFindings findings within tideWithin are very much.
const (
	gatherFor    = 50 * time.Millisecond
	tideFindings = 40
	tideWithin   = time.Second
)

// tide is how many findings there were of late.
type tide struct {
	since time.Time
	count int
}

// gathers notes a batch's findings, and tells whether the next are better taken
// together: there were very many of late, and they pile up. Where one comes after
// the other, however fast, each is told at once.
func (t *tide) gathers(findings int, now time.Time) bool {
	return t.high(findings, now) && findings > 1
}

// high notes findings, and tells whether there were very many of late.
func (t *tide) high(findings int, now time.Time) bool {
	if now.Sub(t.since) > tideWithin {
		was := t.count > tideFindings && now.Sub(t.since) <= 2*tideWithin
		t.since, t.count = now, 0
		if was && findings > 0 {
			t.count = tideFindings // it goes on
		}
	}
	t.count += findings
	return t.count > tideFindings
}

// observation is what the detectors made of one event.
type observation struct {
	findings []*controlv1.Finding
	standing detect.Standing
	ended    []*controlv1.Finding
}

// observe shows frames to the detectors, each event once: a transaction may be
// run more than once, and their state does not go back with it.
func (r *reader) observe(frames []bus.Delivery) []observation {
	var seen []observation
	for _, frame := range frames {
		for _, event := range frame.Batch.GetEvents() {
			var o observation
			for _, finding := range r.bank.Observe(event) {
				finding = proto.CloneOf(finding) // as it is now: the detectors have theirs
				finding.Created = timestamppb.New(r.deps.Clock())
				if finding.GetEventTime() == nil {
					finding.EventTime = event.GetTime()
				}
				o.findings = append(o.findings, finding)
			}
			o.standing, o.ended = r.bank.Standing(), r.bank.Ended()
			seen = append(seen, o)
		}
	}
	return seen
}

// batch is what one transaction does.
type batch struct {
	*reader
	frames []bus.Delivery
	seen   []observation // of each event of the frames

	events   int
	findings []*controlv1.Finding
	traces   []string // of each of findings, its trace context; may be empty
	marked   time.Time
}

func (b *batch) apply(ctx context.Context, tx *store.Tx) error {
	b.events, b.findings, b.traces, b.marked = 0, nil, nil, b.reader.marked // it may be run again
	if err := tx.AdvanceCursor(b.Name(), b.cursor, b.reader.seen); err != nil {
		return err
	}
	if err := b.look(tx); err != nil {
		return err
	}
	for _, frame := range b.frames {
		owned := b.deps.Owns(frame)
		for _, event := range frame.Batch.GetEvents() {
			if err := b.event(ctx, tx, frame.Sequence, owned, event, b.seen[b.events]); err != nil {
				return fmt.Errorf("apply frame %d of node %s: %w", frame.Sequence, frame.Node, err)
			}
			b.events++
		}
		if err := b.mark(tx, frame); err != nil {
			return err
		}
	}
	return nil
}

// look looks for all findings together where there are many.
func (b *batch) look(tx *store.Tx) error {
	var ids []string
	for _, o := range b.seen {
		for _, finding := range o.findings {
			ids = append(ids, finding.GetFindingId())
		}
	}
	if len(ids) < 2 {
		return nil
	}
	return tx.LookForFindings(ids...)
}

// mark notes now and then when the control plane got a node's frame, so that the last
// hour can be found again.
func (b *batch) mark(tx *store.Tx, frame bus.Delivery) error {
	if frame.Batch.GetRunId() != "" || (b.deps.Partition != "" && b.deps.Partition != "0") || frame.Received.Sub(b.marked).Abs() < markEvery {
		return nil
	}
	b.marked = frame.Received
	return tx.MarkReplay(frame.Sequence, frame.Received, memory)
}

// event writes all that one event means. One that belongs to a trace has a
// span, whose context goes to what the event causes; with one that shows
// something and belongs to none a trace begins.
func (b *batch) event(ctx context.Context, tx *store.Tx, sequence uint64, owned bool, event *commonv1.Event, seen observation) (err error) {
	if protocol.OfEither(event) {
		return nil // it is for exporters
	}
	if event.GetKeyUsed() != nil {
		if !owned || b.deps.Audit == nil {
			return nil
		}
		return b.deps.Audit(tx, event)
	}
	if event.GetTraceparent() != "" || len(seen.findings) > 0 {
		spanCtx, span := b.deps.Tracer.Start(telemetry.WithTraceparent(ctx, event.GetTraceparent()), "vigil.detect")
		ctx = spanCtx
		defer func() {
			if err != nil {
				span.SetStatus(codes.Error, err.Error())
			}
			span.End()
		}()
	}
	if owned {
		if err := runs.Apply(ctx, tx, sequence, event); err != nil {
			return err
		}
	}
	findings, err := b.detect(tx, owned, seen.findings)
	if err != nil {
		return err
	}
	for _, finding := range findings {
		b.findings, b.traces = append(b.findings, finding), append(b.traces, telemetry.Traceparent(ctx))
	}
	if err := b.deps.Incidents.Apply(ctx, tx, event, counting(findings)); err != nil {
		return err
	}
	if len(seen.standing.Over) > 0 {
		if err := b.deps.Incidents.SeenNoMore(ctx, tx, event, seen.standing); err != nil {
			return err
		}
	}
	if len(seen.ended) == 0 || !owned {
		return nil
	}
	for _, finding := range seen.ended {
		if err := tx.EndNodeProblem(finding.GetNode(), finding.GetProblem()); err != nil {
			return err
		}
	}
	return b.deps.Incidents.Over(ctx, tx, event, seen.ended)
}

// counting leaves out the findings of rules that are only tried.
func counting(findings []*controlv1.Finding) []*controlv1.Finding {
	return slices.DeleteFunc(slices.Clone(findings), (*controlv1.Finding).GetShadow)
}

// detect stores what an event shows and gives what is new of it. Of the problem
// of a node that is another partition's it takes what hits runs of this one.
func (b *batch) detect(tx *store.Tx, owned bool, findings []*controlv1.Finding) ([]*controlv1.Finding, error) {
	var fresh []*controlv1.Finding
	for _, finding := range findings {
		ofNode := finding.GetProblem() != ""
		if ofNode && !owned && len(finding.GetAffectedRuns()) == 0 {
			continue
		}
		inserted, err := tx.PutFinding(finding)
		if err != nil {
			return nil, err
		}
		if ofNode && owned {
			if err := tx.PutNodeProblem(finding); err != nil {
				return nil, err
			}
		}
		if inserted {
			fresh = append(fresh, finding)
		} else if ofNode && b.deps.Partition != "" {
			if err := b.deps.Incidents.Widen(tx, finding); err != nil {
				return nil, err
			}
		}
	}
	return fresh, nil
}
