package api

import (
	"context"
	"time"

	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/audit"
	"github.com/vigil-ml/vigil/controlplane/audit/trail"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// activityTime is how far back GetActivity looks when it is not told.
const activityTime = 7 * 24 * time.Hour

// records is the AuditService.
type records struct {
	controlv1.UnimplementedAuditServiceServer
	log   *audit.Log
	clock func() time.Time
}

// SearchRecords finds records, the newest first.
func (s *records) SearchRecords(ctx context.Context, in *controlv1.SearchRecordsRequest) (*controlv1.SearchRecordsResponse, error) {
	limit, err := limitOf(in.Limit)
	if err != nil {
		return nil, err
	}
	search := s.log.Search
	if in.Personal {
		search = s.log.SearchPersonal
	}
	found, err := search(ctx, store.AuditQuery{
		Before: in.Before, Since: timeOf(in.Since), Until: timeOf(in.Until), Class: in.Class, Outcome: in.Outcome,
		Actor: in.Actor, Action: in.Action, Object: in.Object, Newest: true, Limit: limit,
	})
	if err != nil {
		return nil, err
	}
	out := &controlv1.SearchRecordsResponse{}
	for _, r := range found {
		out.Records = append(out.Records, shownRecord(r))
	}
	return out, nil
}

// shownRecord is a record as it is shown.
func shownRecord(r *trail.Record) *controlv1.AuditRecord {
	return &controlv1.AuditRecord{
		Seq: r.Seq, Time: timestampOf(r.When()), Class: string(r.Class),
		Actor:  &controlv1.AuditActor{Kind: r.Actor.Kind, Id: r.Actor.ID, Auth: r.Actor.Auth},
		Action: r.Action, Object: r.Object, Outcome: r.Outcome, Request: r.Request, Digest: r.Digest, Detail: r.Detail, Flags: r.Flags,
		Personal: r.Personal, Erased: r.Erased,
	}
}

// GetActivity counts what was done, by who did it.
func (s *records) GetActivity(ctx context.Context, in *controlv1.GetActivityRequest) (*controlv1.GetActivityResponse, error) {
	until := timeOf(in.Until)
	if until.IsZero() {
		until = s.clock().Add(time.Second)
	}
	since := timeOf(in.Since)
	if since.IsZero() {
		since = until.Add(-activityTime)
	}
	counts, err := s.log.Activity(ctx, in.Actor, since, until)
	if err != nil {
		return nil, err
	}
	out := &controlv1.GetActivityResponse{}
	for _, c := range counts {
		if c.Action == "" {
			continue // let go of
		}
		out.Activities = append(out.Activities, &controlv1.Activity{
			Actor: c.Actor, Action: c.Action, Outcome: c.Outcome, Count: c.Count, First: timestampOf(c.First), Last: timestampOf(c.Last),
		})
	}
	return out, nil
}

// GetAuditCheckpoint gives the signed head of the log.
func (s *records) GetAuditCheckpoint(ctx context.Context, in *controlv1.GetAuditCheckpointRequest) (*controlv1.GetAuditCheckpointResponse, error) {
	out := &controlv1.GetAuditCheckpointResponse{Key: s.log.PublicKey()}
	head, signature, err := s.log.Head(ctx)
	if err != nil {
		return nil, err
	}
	if head.Size == 0 && in.OlderSize == 0 {
		return out, nil
	}
	out.Checkpoint = head.Note(signature)
	if in.OlderSize == 0 {
		return out, nil
	}
	checkpoint, proof, err := s.log.ProveGrowth(ctx, in.OlderSize)
	if err != nil {
		return nil, err
	}
	out.Checkpoint, out.Proof = checkpoint, bytesOf(proof)
	return out, nil
}

// ProveRecord proves that a record is in the log.
func (s *records) ProveRecord(ctx context.Context, in *controlv1.ProveRecordRequest) (*controlv1.ProveRecordResponse, error) {
	p, err := s.log.Prove(ctx, in.Seq)
	if fault.Is(err, fault.NotFound) {
		return nil, fault.WithHint(err, "agentctl audit search lists records")
	}
	if err != nil {
		return nil, err
	}
	return &controlv1.ProveRecordResponse{
		Record: string(p.Entry.Record), Leaf: p.Entry.Leaf[:], Checkpoint: p.Checkpoint, Key: s.log.PublicKey(), Proof: bytesOf(p.Hashes),
	}, nil
}

// exportPartBytes bounds one message of an export.
const exportPartBytes = 1 << 20

// ExportRecords streams a copy of the whole log.
func (s *records) ExportRecords(_ *controlv1.ExportRecordsRequest, out grpc.ServerStreamingServer[controlv1.ExportRecordsResponse]) error {
	return s.log.Export(out.Context(), func(lines []byte) error {
		for len(lines) > 0 {
			n := min(len(lines), exportPartBytes)
			if err := out.Send(&controlv1.ExportRecordsResponse{Lines: lines[:n]}); err != nil {
				return err
			}
			lines = lines[n:]
		}
		return nil
	})
}

func bytesOf(hashes []tlog.Hash) [][]byte {
	out := make([][]byte, len(hashes))
	for i := range hashes {
		out[i] = hashes[i][:]
	}
	return out
}

// timeOf is the reverse of timestampOf.
func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}
