package uplink

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/vigil-ml/vigil/agent/spool"
	"github.com/vigil-ml/vigil/internal/fault"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

// lane is the frames of one class in one session: what was sent and is not
// acknowledged, by position only.
type lane struct {
	spool *spool.Spool
	class agentv1.FrameClass
	limit int

	mu       sync.Mutex
	sent     []spool.Position // not acknowledged, in order
	last     spool.Position   // the furthest that may be acknowledged
	progress time.Time        // of the last acknowledgement, or when the first of sent was sent
	room     chan struct{}    // closed when sent gets shorter
}

func newLane(from *spool.Spool, class agentv1.FrameClass, limit int) *lane {
	return &lane{spool: from, class: class, limit: limit, last: from.Acknowledged(), room: make(chan struct{})}
}

// each hands the lane's frames to send, one after the other, as the window
// allows.
func (l *lane) each(ctx context.Context, log *slog.Logger, send func(*agentv1.Frame) error) error {
	reader := l.spool.Follow(l.last)
	defer func() { _ = reader.Close() }()
	for {
		record, err := reader.Next(ctx)
		if err != nil {
			return err
		}
		frame, err := decode(record, l.class)
		if err != nil {
			// The next acknowledgement covers it.
			log.Error("frame in the spool cannot be read and is left out", "err", err)
			continue
		}
		if err := l.enter(ctx, record.Position); err != nil {
			return err
		}
		if err := send(frame); err != nil {
			return err
		}
	}
}

// enter waits for room in the window and takes it.
func (l *lane) enter(ctx context.Context, p spool.Position) error {
	for {
		l.mu.Lock()
		if len(l.sent) < l.limit {
			if len(l.sent) == 0 {
				l.progress = time.Now()
			}
			l.sent = append(l.sent, p)
			l.last = p
			l.mu.Unlock()
			return nil
		}
		room := l.room
		l.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-room:
		}
	}
}

// acknowledge lets go of the frames up to a position. One that was never sent
// is refused: to believe it could lose frames.
func (l *lane) acknowledge(p spool.Position) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.Compare(l.last) > 0 {
		return fault.New(fault.Internal, "acknowledgement of %v up to %v, but only %v was sent", l.class, p, l.last)
	}
	done := 0
	for done < len(l.sent) && l.sent[done].Compare(p) <= 0 {
		done++
	}
	if done > 0 {
		l.sent = append(l.sent[:0], l.sent[done:]...)
		l.progress = time.Now()
		close(l.room)
		l.room = make(chan struct{})
	}
	return l.spool.Acknowledge(p)
}

// stalled gives how long frames have waited without an acknowledgement.
func (l *lane) stalled() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.sent) == 0 {
		return 0
	}
	return time.Since(l.progress)
}
