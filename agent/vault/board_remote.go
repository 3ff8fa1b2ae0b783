package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

const (
	// lastWait is the longest wait for new notes in one call: what else may end a
	// meeting is looked for in between.
	lastWait = 500 * time.Millisecond
	// callTime bounds a call beyond its wait.
	callTime = 5 * time.Second
	// againAfter is the pause before a call that failed is made again.
	againAfter = 20 * time.Millisecond
)

// errAway says that the control plane was out of reach for too long.
var errAway = errors.New("the control plane is out of reach")

// Meet asks the control plane for a run's notes; see agent/v1 AgreementService.
type Meet func(context.Context, *agentv1.MeetRequest) (*agentv1.MeetResponse, error)

// remote is the board that the control plane keeps. It fails with [errAway] when
// that does not answer for a time.
type remote struct {
	meet   Meet
	runID  string
	away   time.Duration // how long it may not answer
	place  int64         // of the last note that was seen
	rounds map[int]map[string][]byte
}

func newRemote(meet Meet, runID string, away time.Duration) *remote {
	return &remote{meet: meet, runID: runID, away: away, rounds: map[int]map[string][]byte{}}
}

func (b *remote) newest() int {
	if len(b.rounds) == 0 {
		return 0
	}
	return slices.Max(slices.Collect(maps.Keys(b.rounds)))
}

func (b *remote) names(round int) []string { return slices.Collect(maps.Keys(b.rounds[round])) }

func (b *remote) read(round int, name string, into any) bool {
	data, ok := b.rounds[round][name]
	return ok && json.Unmarshal(data, into) == nil
}

func (b *remote) post(ctx context.Context, round int, name string, content any) error {
	data, err := json.Marshal(content)
	if err != nil {
		return err
	}
	note := &agentv1.AgreementNote{Round: uint32(round), Name: name, Content: data}
	if err := b.call(ctx, &agentv1.MeetRequest{Notes: []*agentv1.AgreementNote{note}}); err != nil {
		return err
	}
	if have := b.rounds[round][name]; string(have) != string(data) {
		return fmt.Errorf("post note %s of round %d: %w", name, round, os.ErrExist)
	}
	return nil
}

func (b *remote) look(ctx context.Context, wait time.Duration) error {
	if wait > 0 {
		wait = lastWait // an answer comes as soon as there is one
	}
	return b.call(ctx, &agentv1.MeetRequest{Wait: durationpb.New(wait)})
}

// call asks until there is an answer, or has not been for too long.
func (b *remote) call(ctx context.Context, in *agentv1.MeetRequest) error {
	in.RunId, in.After = b.runID, b.place
	for since := time.Now(); ; {
		out, err := b.once(ctx, in)
		if err == nil {
			return b.take(out)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if fault.Is(err, fault.Invalid) || time.Since(since) >= b.away {
			return fmt.Errorf("%w: %w", errAway, err)
		}
		if !life.Sleep(ctx, againAfter) {
			return ctx.Err()
		}
	}
}

func (b *remote) once(ctx context.Context, in *agentv1.MeetRequest) (*agentv1.MeetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, in.GetWait().AsDuration()+callTime)
	defer cancel()
	return b.meet(ctx, in)
}

func (b *remote) take(out *agentv1.MeetResponse) error {
	for _, note := range out.GetNotes() {
		round := int(note.GetRound())
		if b.rounds[round] == nil {
			b.rounds[round] = map[string][]byte{}
		}
		b.rounds[round][note.GetName()] = note.GetContent()
		b.place = max(b.place, note.GetPlace())
	}
	return nil
}
