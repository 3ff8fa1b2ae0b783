package trainer

import (
	"encoding/json"
	"fmt"

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
