package trainer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"sync/atomic"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

const profileFormat = "pprof CPU profile"

var errProfiled = fault.New(fault.Precondition, "another profile of the process is being recorded")

// recorder records the process' CPU profile for some steps. The watch begins it
// and the training loop counts its steps down, without a lock.
type recorder struct {
	last    string        // the directive that was carried out last; the watch's own
	left    atomic.Int64  // steps until the profile is complete; 0: nothing is counted
	ended   chan int64    // the last step of a complete one
	busy    chan struct{} // holds a token while one is recorded, until that is told
	closing chan struct{} // closed when the session ends
}

func newRecorder() *recorder {
	return &recorder{ended: make(chan int64, 1), busy: make(chan struct{}, 1), closing: make(chan struct{})}
}

// close has a profile that is being recorded fail, and waits until that is told,
// until ctx ends at most. None begins afterwards.
func (r *recorder) close(ctx context.Context) {
	close(r.closing)
	select {
	case r.busy <- struct{}{}:
	case <-ctx.Done():
	}
}

// stepped counts a step.
func (r *recorder) stepped(step int64) {
	if r.left.Load() == 0 || r.left.Add(-1) != 0 {
		return
	}
	select {
	case r.ended <- step:
	default:
	}
}

// profile carries out a directive to record a profile; one seen before is left
// alone.
func (s *Session) profile(directive *commonv1.Directive) {
	order := directive.GetProfile()
	if s.recorder.last == directive.GetDirectiveId() {
		return
	}
	s.recorder.last = directive.GetDirectiveId()
	tell := func(progress *commonv1.ProfileProgress) {
		progress.ProfileId = order.GetProfileId()
		s.Report(&commonv1.Event{
			Traceparent: directive.GetTraceparent(), Body: &commonv1.Event_Profile{Profile: progress},
		})
	}
	file, err := s.beginProfile(order)
	if err != nil {
		tell(&commonv1.ProfileProgress{State: commonv1.ProfileState_PROFILE_STATE_FAILED, Error: err.Error()})
		return
	}
	tell(&commonv1.ProfileProgress{State: commonv1.ProfileState_PROFILE_STATE_DIRECTED})
	s.group.Go("profile", func(context.Context) error {
		progress, err := s.endProfile(file, directive.GetDeadline().AsTime())
		if err != nil {
			progress = &commonv1.ProfileProgress{State: commonv1.ProfileState_PROFILE_STATE_FAILED, Error: err.Error()}
		} else {
			progress.FirstStep = progress.LastStep - int64(order.GetSteps()) + 1
		}
		tell(progress)
		<-s.recorder.busy
		return nil
	})
}

func (s *Session) beginProfile(order *commonv1.ProfileOrder) (file *os.File, err error) {
	select {
	case s.recorder.busy <- struct{}{}:
	default:
		return nil, errProfiled
	}
	defer func() {
		if err != nil {
			<-s.recorder.busy
		}
	}()
	path := filepath.Join(order.GetDirectory(), fmt.Sprintf("%s-rank-%05d.pprof", filepath.Base(order.GetProfileId()), s.config.Rank))
	file, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create profile: %w", err)
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		_ = file.Close()
		_ = os.Remove(path)
		return nil, errProfiled
	}
	select {
	case <-s.recorder.ended: // of a profile that came too late
	default:
	}
	s.recorder.left.Store(int64(order.GetSteps()))
	return file, nil
}

// endProfile waits for the steps and gives what was written.
func (s *Session) endProfile(file *os.File, deadline time.Time) (*commonv1.ProfileProgress, error) {
	timer := time.NewTimer(deadline.Sub(s.deps.Clock()))
	defer timer.Stop()
	var last int64
	var err error
	select {
	case last = <-s.recorder.ended:
	case <-timer.C:
		err = fault.New(fault.Deadline, "the steps were not made in time")
	case <-s.recorder.closing:
		err = fault.New(fault.Unavailable, "the process ended before the steps were made")
	}
	s.recorder.left.Store(0)
	pprof.StopCPUProfile()
	info, statErr := file.Stat()
	if err = errors.Join(err, statErr, file.Close()); err != nil {
		_ = os.Remove(file.Name())
		return nil, err
	}
	return &commonv1.ProfileProgress{
		State: commonv1.ProfileState_PROFILE_STATE_RECORDED, Path: file.Name(), SizeBytes: info.Size(), Format: profileFormat, LastStep: last,
	}, nil
}
