package fleet

import (
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const (
	// DefaultProfileSteps is how many steps a profile has when nobody says.
	DefaultProfileSteps = 5
	// MaxProfileSteps bounds it: a trace grows by megabytes a step.
	MaxProfileSteps = 100
	// DefaultProfileTimeout is how long a profile may take when nobody says.
	DefaultProfileTimeout = 2 * time.Minute
)

// ProfileRequest asks for a profile of a run.
type ProfileRequest struct {
	RunID       string
	Steps       uint32        // 1 to [MaxProfileSteps]; 0 means [DefaultProfileSteps]
	Ranks       []uint32      // those that record; empty for all
	Traceparent string        // W3C trace context of whoever asks; may be empty
	Timeout     time.Duration // how long it may take; 0 means [DefaultProfileTimeout]
}

// RequestProfile writes a command to each node of a run into the caller's
// transaction; the agents there have the ranks that are meant record. It fails
// with [fault.NotFound] when there is no such run, with [fault.Precondition]
// when it has ended, with [fault.Unavailable] when no agent of it is connected,
// and with [fault.Invalid] when it has no such rank.
func (f *Fleet) RequestProfile(tx *store.Tx, request ProfileRequest) (*controlv1.ProfileRunResponse, error) {
	run, err := findRun(tx, request.RunID)
	if err != nil {
		return nil, err
	}
	if err := refuse(run); err != nil {
		return nil, err
	}
	if err := f.reachable(tx, run); err != nil {
		return nil, err
	}
	ranks, err := ranksOf(run, request.Ranks)
	if err != nil {
		return nil, err
	}
	steps, timeout := request.Steps, request.Timeout
	if steps == 0 {
		steps = DefaultProfileSteps
	}
	if steps > MaxProfileSteps {
		return nil, fault.New(fault.Invalid, "a profile of %d steps is asked for; want at most %d", steps, MaxProfileSteps)
	}
	if timeout == 0 {
		timeout = DefaultProfileTimeout
	}
	now, id := f.deps.Clock(), uuid.Must(uuid.NewV7()).String()
	for _, node := range run.GetNodes() {
		command := order(uuid.Must(uuid.NewV7()).String(), "profile/"+id+"/"+node, node, run.GetRunId(), now, timeout)
		command.Wire.Traceparent = request.Traceparent
		command.Wire.Verb = &agentv1.Command_Profile{Profile: &commonv1.ProfileOrder{
			RunId: run.GetRunId(), ProfileId: id, Steps: steps, Ranks: ranks,
		}}
		if _, err := tx.InsertCommand(command); err != nil {
			return nil, err
		}
	}
	return &controlv1.ProfileRunResponse{ProfileId: id, RunId: run.GetRunId(), Ranks: ranks, Deadline: timestamppb.New(now.Add(timeout))}, nil
}

// ranksOf gives the ranks that are meant, each once.
func ranksOf(run *controlv1.Run, asked []uint32) ([]uint32, error) {
	world := max(1, run.GetWorldSize())
	if len(asked) == 0 {
		for rank := range world {
			asked = append(asked, rank)
		}
		return asked, nil
	}
	seen := map[uint32]bool{}
	var ranks []uint32
	for _, rank := range asked {
		if rank >= world {
			return nil, fault.New(fault.Invalid, "run %s has no rank %d; its ranks are 0 to %d", run.GetRunId(), rank, world-1)
		}
		if !seen[rank] {
			seen[rank] = true
			ranks = append(ranks, rank)
		}
	}
	return ranks, nil
}
