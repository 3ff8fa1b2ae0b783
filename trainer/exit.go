package trainer

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/protocol"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// WriteExit tells the supervisor why the process is about to exit; without one
// it does nothing. The explanation is one sentence; two exits with the same
// explanation and no progress between them count as the same failure again,
// so name the step in it. Stop asks not to be restarted.
func (s *Session) WriteExit(failure commonv1.FailureKind, explanation, checkpointID string, stop bool) error {
	if s.config.ExitFile == "" {
		return nil
	}
	report, err := json.Marshal(protocol.ExitReport{
		Failure: failure.String(), Explanation: explanation, CheckpointID: checkpointID, Stop: stop,
	})
	if err != nil {
		return fmt.Errorf("encode exit report: %w", err)
	}
	if err := durable.WriteFile(durable.OS{}, s.config.ExitFile, report, 0o600); err != nil {
		return fmt.Errorf("write exit report: %w", err)
	}
	return nil
}

// progressEvery is how often the progress file is brought up to date.
const progressEvery = 250 * time.Millisecond

// unknownStep stands for no step: 0 is one, of a state that was saved before the
// first.
const unknownStep = -1

// progressPath is beside the exit file.
func progressPath(exitFile string) string { return exitFile + ".step" }

// keepProgress leaves the last step where a supervisor finds it, whatever
// becomes of this process: that is how it tells failing again from getting on.
func (s *Session) keepProgress(ctx context.Context) error {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	written := int64(unknownStep)
	for ended := false; !ended; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			ended = true
		}
		if step := s.step.Load(); step != written {
			written = step
			s.writeProgress(step)
		}
	}
	return nil
}

// writeProgress replaces the progress file; nobody needs it after a crash of
// the machine, so nothing is synced.
func (s *Session) writeProgress(step int64) {
	path := progressPath(s.config.ExitFile)
	err := os.WriteFile(path+".new", []byte(strconv.FormatInt(step, 10)), 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		s.deps.Log.Debug("the supervisor cannot be told the step", "cause", err)
	}
}

// ReadProgress gives the last step that the process with an exit file
// finished or resumed from, and false when it is not known.
func ReadProgress(exitFile string) (step int64, known bool) {
	text, err := os.ReadFile(progressPath(exitFile))
	if err != nil {
		return 0, false
	}
	step, err = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return step, err == nil
}
