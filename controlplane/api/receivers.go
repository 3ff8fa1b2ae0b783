package api

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/alerting"
	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const hintReceivers = "agentctl alerts receivers lists the receivers"

// Receivers is who is told; alerting has them.
type Receivers interface {
	// Statuses gives how every receiver is.
	Statuses() []alerting.Status
	// Test sends a made-up incident to a receiver and gives what that answered.
	Test(ctx context.Context, name string) (answers []string, err error)
}

// receivers is the ReceiverService.
type receivers struct {
	controlv1.UnimplementedReceiverServiceServer
	store     *store.Store
	receivers Receivers
}

// ListReceivers lists the receivers and how they are.
func (s *receivers) ListReceivers(ctx context.Context, _ *controlv1.ListReceiversRequest) (*controlv1.ListReceiversResponse, error) {
	var waiting, dead map[string]int64
	err := s.store.View(ctx, func(tx *store.Tx) (err error) {
		waiting, dead, err = tx.Queued()
		return err
	})
	if err != nil {
		return nil, err
	}
	out := &controlv1.ListReceiversResponse{}
	for _, r := range s.receivers.Statuses() {
		out.Receivers = append(out.Receivers, &controlv1.Receiver{
			Name: r.Name, Kind: r.Kind, Fallback: r.Fallback, Failing: r.Failing, Error: r.Cause,
			Since: timestampOf(r.Since), PausedUntil: timestampOf(r.PausedUntil), Waiting: waiting[r.Name], Dead: dead[r.Name],
		})
	}
	return out, nil
}

// TestReceiver sends a made-up incident and its end to a receiver.
func (s *receivers) TestReceiver(ctx context.Context, in *controlv1.TestReceiverRequest) (*controlv1.TestReceiverResponse, error) {
	if err := required("name", in.Name, hintReceivers); err != nil {
		return nil, err
	}
	answers, err := s.receivers.Test(ctx, in.Name)
	if answers == nil && fault.Is(err, fault.NotFound) {
		return nil, fault.WithHint(err, hintReceivers)
	}
	out := &controlv1.TestReceiverResponse{Delivered: err == nil, Answers: answers, Permanent: notify.IsPermanent(err)}
	if err != nil {
		out.Error = err.Error()
	}
	return out, nil
}

// ListDeadLetters lists the notifications that were given up.
func (s *receivers) ListDeadLetters(ctx context.Context, in *controlv1.ListDeadLettersRequest) (*controlv1.ListDeadLettersResponse, error) {
	limit, err := limitOf(in.Limit)
	if err != nil {
		return nil, err
	}
	out := &controlv1.ListDeadLettersResponse{}
	err = s.store.View(ctx, func(tx *store.Tx) (err error) {
		out.Letters, err = tx.DeadLetters(in.Receiver, limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// ReplayDeadLetters has dead letters sent again: those named, or all of a
// receiver.
func (s *receivers) ReplayDeadLetters(ctx context.Context, in *controlv1.ReplayDeadLettersRequest) (*controlv1.ReplayDeadLettersResponse, error) {
	ids := in.NotificationIds
	if len(ids) == 0 {
		if err := required("receiver", in.Receiver, "name dead letters, or a receiver; agentctl alerts dead-letters ls lists them"); err != nil {
			return nil, err
		}
		err := s.store.View(ctx, func(tx *store.Tx) error {
			letters, err := tx.DeadLetters(in.Receiver, 0)
			for i := len(letters) - 1; i >= 0; i-- { // the first that was given up first
				ids = append(ids, letters[i].GetNotificationId())
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	out := &controlv1.ReplayDeadLettersResponse{Skipped: map[string]string{}}
	for _, id := range ids {
		err := s.store.Outbox().Replay(ctx, id)
		switch {
		case err == nil:
			out.Replayed = append(out.Replayed, id)
		case fault.Is(err, fault.NotFound) || fault.Is(err, fault.Precondition):
			out.Skipped[id] = err.Error()
		default:
			return nil, err
		}
	}
	return out, nil
}

func timestampOf(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
