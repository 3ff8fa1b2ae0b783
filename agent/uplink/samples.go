package uplink

import (
	"context"
	"time"

	"github.com/vigil-ml/vigil/agent/spool"
	"github.com/vigil-ml/vigil/internal/columns"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

// maxBatchPoints bounds the samples that are sent together: some 130 KiB at
// worst.
const maxBatchPoints = 16 << 10

// gather is how long samples wait at least for those that are measured at the
// same time.
const gather = 250 * time.Millisecond

// sampleSender sends the samples lane. Records of the spool are joined to
// larger frames, whose columns take a fraction of the bytes: a record is one
// round of one collector, and a column of one value has nothing to save. A
// joined frame has the position of its last record, so that its
// acknowledgement lets go of them all.
type sampleSender struct {
	*session
	reader  *spool.Reader
	defined map[uint32]bool // series that this session has named

	points  []columns.Point // not sent yet
	upTo    spool.Position  // of the last record in points
	due     time.Time       // when points are sent at the latest
	decoder columns.Decoder
	encoder columns.Encoder
}

func (s *session) sendSamples(ctx context.Context) error {
	x := &sampleSender{session: s, reader: s.samples.spool.Follow(s.samples.last), defined: map[uint32]bool{}}
	defer func() { _ = x.reader.Close() }()
	for {
		record, ok, err := x.next(ctx)
		if err != nil {
			return err
		}
		if ok {
			err = x.take(ctx, record)
		} else {
			err = x.flush(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// next gives the next record, or false when what was taken is due first.
func (x *sampleSender) next(ctx context.Context) (spool.Record, bool, error) {
	record, ok, err := x.reader.Poll()
	if ok || err != nil {
		return record, ok, err
	}
	if len(x.points) == 0 {
		record, err = x.reader.Next(ctx)
		return record, err == nil, err
	}
	waiting, cancel := context.WithDeadline(ctx, x.due)
	defer cancel()
	record, err = x.reader.Next(waiting)
	if err != nil && waiting.Err() != nil && ctx.Err() == nil {
		return spool.Record{}, false, nil
	}
	return record, err == nil, err
}

// take adds a record to what is sent together. The record of an agent that did
// not know columns is sent as it is.
func (x *sampleSender) take(ctx context.Context, record spool.Record) error {
	frame, err := decode(record, x.samples.class)
	if err == nil && frame.GetColumns() == nil {
		if err := x.flush(ctx); err != nil {
			return err
		}
		return x.put(ctx, record.Position, frame, frame.GetSamples().GetRefs())
	}
	held := len(x.points)
	if soonest := time.Now().Add(min(gather, x.config.BatchInterval)); held == 0 && x.due.Before(soonest) {
		x.due = soonest
	}
	if err == nil {
		x.points, err = x.decoder.Append(x.points, frame.GetColumns().GetBlock())
	}
	if err != nil {
		// The next acknowledgement covers it.
		x.points = x.points[:held]
		x.deps.Log.Error("frame in the spool cannot be read and is left out", "position", record.Position, "err", err)
		return nil
	}
	if held > 0 && len(x.points) > columns.MaxPoints {
		x.points = x.points[:held]
		if err := x.flush(ctx); err != nil {
			return err
		}
		return x.take(ctx, record)
	}
	x.upTo = record.Position
	if len(x.points) >= maxBatchPoints {
		return x.flush(ctx)
	}
	return nil
}

// flush sends what was taken as one frame.
func (x *sampleSender) flush(ctx context.Context) error {
	if len(x.points) == 0 {
		return nil
	}
	refs := make([]uint32, 0, len(x.points))
	for i, p := range x.points {
		if i == 0 || p.Ref != x.points[i-1].Ref {
			refs = append(refs, p.Ref)
		}
	}
	frame := &agentv1.Frame{
		Class: x.samples.class, Position: toProto(x.upTo),
		Payload: &agentv1.Frame_Columns{Columns: &agentv1.SampleColumns{Block: x.encoder.Append(nil, x.points)}},
	}
	x.points = x.points[:0]
	x.due = time.Now().Add(x.config.BatchInterval)
	return x.put(ctx, x.upTo, frame, refs)
}

// put sends a frame when the window has room for it, behind the names of the
// series that it has first.
func (x *sampleSender) put(ctx context.Context, p spool.Position, frame *agentv1.Frame, refs []uint32) error {
	if err := x.samples.enter(ctx, p); err != nil {
		return err
	}
	var fresh []uint32
	for _, ref := range refs {
		if !x.defined[ref] {
			x.defined[ref] = true
			fresh = append(fresh, ref)
		}
	}
	if defs := x.deps.Series.SeriesDefs(fresh); len(defs) > 0 {
		message := &agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Series{Series: &agentv1.SeriesDefs{Series: defs}}}
		if err := x.send(ctx, message); err != nil {
			return err
		}
	}
	return x.send(ctx, &agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Frame{Frame: frame}})
}
