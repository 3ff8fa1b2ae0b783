package trainer

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/protocol"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
)

// Recovery gives what this attempt is asked to do otherwise than the one before;
// its zero value asks for nothing. A trainer answers with AnswerRecovery.
func (s *Session) Recovery() protocol.Recovery { return s.config.Recovery }

// AnswerRecovery says which of the changes that Recovery asks for the trainer
// makes, and which it cannot. Where nothing is asked for it does nothing.
func (s *Session) AnswerRecovery(honoured, refused []string) {
	r := s.config.Recovery
	if r.SkipBatches == 0 && (r.LearningRateScale == 0 || r.LearningRateScale == 1) {
		return
	}
	answer := &commonv1.RecoveryAnswer{Honoured: honoured, Refused: refused}
	s.Report(&commonv1.Event{Body: &commonv1.Event_RecoveryAnswer{RecoveryAnswer: answer}})
	if s.config.ExitFile == "" {
		return
	}
	text, err := json.Marshal(Answer{Honoured: honoured, Refused: refused})
	if err == nil {
		err = os.WriteFile(answerPath(s.config.ExitFile), text, 0o600)
	}
	if err != nil {
		s.deps.Log.Warn("the supervisor cannot be told which changes are made", "cause", err)
	}
}

// Answer is a trainer's word on the changes that it was asked for.
type Answer struct {
	Honoured []string `json:"honoured"`
	Refused  []string `json:"refused"`
}

func answerPath(exitFile string) string { return exitFile + ".recovery" }

// ReadAnswer gives the answer of the process with an exit file; false when it
// gave none.
func ReadAnswer(exitFile string) (Answer, bool) {
	var a Answer
	text, err := os.ReadFile(answerPath(exitFile))
	if err != nil || json.Unmarshal(text, &a) != nil {
		return Answer{}, false
	}
	return a, true
}

// Standing asks the agent how the run stands: what was saved last, how long
// saving takes, and what the node says broke since a time. CheckpointID, which
// may be empty, is one that is asked about. It fails with fault.Unavailable when
// no agent answers for a second.
func (s *Session) Standing(ctx context.Context, since time.Time, checkpointID string) (*trainerv1.GetStandingResponse, error) {
	if s.client == nil {
		return nil, fault.New(fault.Unavailable, "ask how the run stands: there is no agent")
	}
	request := &trainerv1.GetStandingRequest{CheckpointId: checkpointID}
	if !since.IsZero() {
		request.Since = timestamppb.New(since)
	}
	var answer *trainerv1.GetStandingResponse
	err := s.call(ctx, requestPatience, func(ctx context.Context, session string) (err error) {
		request.SessionId = session
		answer, err = s.client.GetStanding(ctx, request)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ask how the run stands: %w", err)
	}
	return answer, nil
}

// fits refuses a checkpoint that is larger than its user allows.
func (s *Session) fits(dir string) error {
	if s.config.MaxCheckpointBytes == 0 {
		return nil
	}
	var size int64
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("measure checkpoint: %w", err)
	}
	if size > s.config.MaxCheckpointBytes {
		return fault.New(fault.Precondition, "it has %d bytes; limits.max_checkpoint_size_gb allows %d", size, s.config.MaxCheckpointBytes)
	}
	return nil
}

// refuseFallback fails where a newer checkpoint was passed over and its user
// wants that one or none.
func (s *Session) refuseFallback(passedOver []*trainerv1.PassedOver) error {
	if !s.config.NoFallback || len(passedOver) == 0 {
		return nil
	}
	return fault.WithHint(fault.New(fault.Corrupt, "checkpoint %s is not fit to resume from: %s",
		passedOver[0].GetCheckpointId(), passedOver[0].GetReason()),
		"set recovery.fallback_to_earlier_checkpoint to go on from an earlier one")
}
