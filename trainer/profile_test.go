package trainer_test

import (
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	"github.com/vigil-ml/vigil/trainer"
	"github.com/vigil-ml/vigil/trainer/trainertest"
)

func profileOf(agent *trainertest.Agent, id string, state commonv1.ProfileState) *commonv1.ProfileProgress {
	for _, e := range agent.Events() {
		if p := e.GetProfile(); p.GetProfileId() == id && p.GetState() == state {
			return p
		}
	}
	return nil
}

func TestProfile(t *testing.T) {
	const directed, recorded, failed = commonv1.ProfileState_PROFILE_STATE_DIRECTED,
		commonv1.ProfileState_PROFILE_STATE_RECORDED, commonv1.ProfileState_PROFILE_STATE_FAILED
	agent := trainertest.New(t)
	agent.Start(t)
	s := connect(t, agent, nil)
	dir := t.TempDir()
	ask := func(id, dir string, deadline time.Time) {
		agent.Direct(&commonv1.Directive{DirectiveId: id, Deadline: timestamppb.New(deadline), Verb: &commonv1.Directive_Profile{
			Profile: &commonv1.ProfileOrder{RunId: "run", ProfileId: id, Steps: 3, Directory: dir}}})
	}
	s.Step(trainer.StepReport{Step: 7})
	ask("a", dir, time.Now().Add(time.Minute))
	testkit.Eventually(t, "it is begun", func() bool { return profileOf(agent, "a", directed) != nil })
	ask("b", dir, time.Now().Add(time.Minute))
	testkit.Eventually(t, "a second one at a time is refused", func() bool { return profileOf(agent, "b", failed) != nil })
	for step := int64(8); step <= 12; step++ {
		s.Step(trainer.StepReport{Step: step})
	}
	testkit.Eventually(t, "it is recorded", func() bool { return profileOf(agent, "a", recorded) != nil })
	got := profileOf(agent, "a", recorded)
	if got.FirstStep != 8 || got.LastStep != 10 || filepath.Dir(got.Path) != dir {
		t.Errorf("recorded %v; want steps 8 to 10 in %s", got, dir)
	}
	info, err := os.Stat(got.Path)
	if err != nil || info.Size() != got.SizeBytes {
		t.Errorf("%v, %v; want %d bytes", info, err, got.SizeBytes)
	}
	file, err := os.Open(got.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if _, err := gzip.NewReader(file); err != nil { // what go tool pprof reads
		t.Errorf("the profile is not compressed: %v", err)
	}
	ask("late", dir, time.Now())
	testkit.Eventually(t, "no step was made in time", func() bool { return profileOf(agent, "late", failed) != nil })
	ask("nowhere", filepath.Join(dir, "none"), time.Now().Add(time.Minute))
	testkit.Eventually(t, "no file can be made", func() bool { return profileOf(agent, "nowhere", failed) != nil })
	ask("cut", dir, time.Now().Add(time.Minute))
	testkit.Eventually(t, "another is begun", func() bool { return profileOf(agent, "cut", directed) != nil })
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if got := profileOf(agent, "cut", failed); got == nil || !strings.Contains(got.Error, "the process ended") {
		t.Errorf("of the profile that was under way when the session was closed, the agent knows %v", got)
	}
}
