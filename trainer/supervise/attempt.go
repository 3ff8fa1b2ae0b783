package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/protocol"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	"github.com/vigil-ml/vigil/trainer"
	"github.com/vigil-ml/vigil/trainer/supervise/diagnose"
	"github.com/vigil-ml/vigil/trainer/supervise/preempt"
)

// supervise makes the attempts, with who watches for notices beside them.
func (s *supervisor) supervise(ctx context.Context, path string) (result Result, err error) {
	s.machine.changed = s.deps.OnState
	s.machine.wrong = func(from, to State) {
		s.deps.Log.Error("the supervisor changes its state as it must not", "from", from, "to", to)
	}
	if s.deps.OwnProcess {
		if err := adoptOrphans(); err != nil {
			s.deps.Log.Warn("processes that leave the command may not be found", "cause", err)
		}
	}
	if err := errors.Join(s.checkEncryption(ctx), s.openConfinement()); err != nil {
		return Result{}, err
	}
	if s.config.Settings != nil {
		if err := os.WriteFile(s.settingsFile(), s.config.Settings, 0o600); err != nil {
			return Result{}, fmt.Errorf("write settings for the command: %w", err)
		}
	}
	watchers := life.NewGroup(context.WithoutCancel(ctx))
	defer func() {
		watchers.Stop()
		_ = watchers.Wait()
	}()
	watchers.Go("preemption notices", func(ctx context.Context) error {
		return preempt.Watch(ctx, s.deps.Log, s.deps.Notices, 0, func(n preempt.Notice) { s.notices <- n })
	})
	return s.run(ctx, path)
}

func (s *supervisor) settingsFile() string { return filepath.Join(s.dir, "settings.json") }

// checkEncryption fails where checkpoints must be encrypted and are not known to
// be.
func (s *supervisor) checkEncryption(ctx context.Context) error {
	if !s.config.NeedEncryption {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	standing, err := s.session.Standing(ctx, time.Time{}, "")
	switch {
	case err != nil:
		return fmt.Errorf("see that checkpoints are encrypted (security.encrypt_checkpoints): %w", err)
	case !standing.GetEncrypts():
		return fault.WithHint(fault.New(fault.Precondition, "security.encrypt_checkpoints is set, and the agent's vault does not encrypt"),
			"set vault.encryption in the agent's configuration")
	}
	return nil
}

// attempt launches the command once and waits for its end.
func (s *supervisor) attempt(ctx context.Context, path string, number uint32, after commonv1.FailureKind) (ending, error) {
	exitFile := filepath.Join(s.dir, fmt.Sprintf("exit-%d.json", number))
	cmd := exec.Command(path, s.config.Command[1:]...)
	cmd.Args[0] = s.config.Command[0]
	cmd.Env = s.environment(number, exitFile)
	if s.deps.Stdin != nil {
		cmd.Stdin = s.deps.Stdin
	}
	signs, losses := diagnose.NewReader(), s.losses(exitFile)
	launched := time.Now()
	group, err := s.confine(number)
	if err != nil {
		return ending{}, err
	}
	defer s.release(group)
	memory := watchMemory(group, ownKills)
	s.capture.Note("attempt %d of run %s", number, s.config.RunID)
	p, err := start(ctx, cmd, group, s.capture, stream{s.deps.Stdout, losses.with(signs)}, stream{s.deps.Stderr, losses.with(signs)}, marker(exitFile))
	if err != nil {
		return ending{}, err
	}
	p.adopts = s.deps.OwnProcess
	s.machine.to(Running)
	s.began = true
	s.session.Report(&commonv1.Event{Body: &commonv1.Event_AttemptStarted{AttemptStarted: &commonv1.AttemptStarted{
		Command: s.sayable(s.config.Command), Pid: int64(os.Getpid()), AfterFailure: after, Recovery: s.asked,
	}}})
	s.deps.Log.Debug("launched", "attempt", number, "pid", p.cmd.Process.Pid, "command", s.config.Command)
	w := s.watch(ctx, p, exitFile, launched, losses.pulse)
	s.machine.to(Sweeping)
	if strays := p.end(); strays > 0 {
		s.deps.Log.Info("ended processes that had left the command's group", "count", strays)
	}
	losses.reader.Close()
	if p.err != nil {
		return ending{}, p.err
	}
	evidence := s.evidence(ctx, signs, exitFile, launched)
	evidence.Act = w.act
	evidence.OOMKills = memory.kills()
	w.notes = append(w.notes, memory.peak(s.config.Limits.MemoryBytes)...)
	report, err := readReport(exitFile)
	if err != nil {
		s.deps.Log.Warn("the command's reason to exit is not readable", "cause", err)
	}
	e := classify(p.state, report, s.stopped, evidence)
	e.lasted = time.Since(launched)
	e.progress, e.stepKnown = trainer.ReadProgress(exitFile)
	s.answered(exitFile)
	for i, line := range append(e.Evidence, w.notes...) {
		if i >= len(e.Evidence) {
			e.Evidence = append(e.Evidence, line)
		}
		e.Evidence[i] = s.capture.Text(line)
	}
	e.Explanation = s.capture.Text(e.Explanation)
	return e, nil
}

// evidence gathers what the attempt left behind, but for its exit and what the
// supervisor did.
func (s *supervisor) evidence(ctx context.Context, signs *diagnose.Reader, exitFile string, launched time.Time) diagnose.Evidence {
	var e diagnose.Evidence
	if text := torchError(torchErrorFile(exitFile)); text != "" {
		_, _ = signs.Write([]byte("\n" + text + "\n"))
	}
	e.Signs, e.Traceback = signs.Found()
	if s.session.Connected() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
		defer cancel()
		standing, err := s.session.Standing(ctx, launched, "")
		if err != nil {
			s.deps.Log.Debug("the agent does not say what the node's kernel logged", "cause", err)
		}
		e.Faults = standing.GetFaults()
	}
	return e
}

// answered says when a command was asked to do something otherwise and cannot,
// or did not say that it can.
func (s *supervisor) answered(exitFile string) {
	if s.next.SkipBatches == 0 && (s.next.LearningRateScale == 0 || s.next.LearningRateScale == 1) {
		return
	}
	answer, ok := trainer.ReadAnswer(exitFile)
	switch {
	case !ok:
		s.deps.Log.Warn("the command did not say that it does what recovery asked for", "skip batches", s.next.SkipBatches,
			"learning rate scale", s.next.LearningRateScale, "hint", "read "+protocol.EnvRecovery+", or use the SDK's Recovery and AnswerRecovery")
	case len(answer.Refused) > 0:
		s.deps.Log.Warn("the command cannot do what recovery asked for", "refused", strings.Join(answer.Refused, "; "))
	default:
		s.deps.Log.Info("the command does what recovery asked for", "honoured", strings.Join(answer.Honoured, "; "))
	}
}

func torchErrorFile(exitFile string) string { return exitFile + ".torch" }

// environment is the command's: what the supervisor has, and the run's own.
// What is given here for the first time may be given by the user otherwise.
func (s *supervisor) environment(attempt uint32, exitFile string) []string {
	env := slices.Clone(s.deps.Environ)
	has := func(name string) bool {
		return slices.ContainsFunc(env, func(entry string) bool { return strings.HasPrefix(entry, name+"=") })
	}
	for _, entry := range [][2]string{
		{"PYTHONUNBUFFERED", "1"},   // what is printed is seen, and not lost with the process
		{"PYTHONFAULTHANDLER", "1"}, // a crash, and the end of a hang, print the stacks
		{"TORCHELASTIC_ERROR_FILE", torchErrorFile(exitFile)},
	} {
		if !has(entry[0]) {
			env = append(env, entry[0]+"="+entry[1])
		}
	}
	env = append(env, s.config.Environment...)
	for _, entry := range [][2]string{
		{protocol.EnvSocket, s.config.Socket},
		{protocol.EnvRunID, s.config.RunID},
		{protocol.EnvAttempt, strconv.FormatUint(uint64(attempt), 10)},
		{protocol.EnvExitFile, exitFile},
		{protocol.EnvRecovery, s.recoveryText()},
	} {
		env = append(env, entry[0]+"="+entry[1])
	}
	if s.config.Settings != nil {
		env = append(env, protocol.EnvConfig+"="+s.settingsFile())
	}
	if limit := s.config.Limits.CheckpointBytes; limit > 0 {
		env = append(env, protocol.EnvMaxCheckpoint+"="+strconv.FormatInt(limit, 10))
	}
	return env
}

// recoveryText is what the attempt is asked for, as JSON; empty for nothing.
func (s *supervisor) recoveryText() string {
	next := s.next
	if s.config.NoResume {
		next.From = trainer.FromNothing
	}
	if next.From == "" {
		return ""
	}
	text, err := json.Marshal(next)
	if err != nil { // numbers and words: it cannot be
		s.deps.Log.Error("the attempt cannot be told what to do otherwise", "cause", err)
		return ""
	}
	return string(text)
}

// sayable makes arguments fit for a message: they may be any bytes, and hold
// what must not be kept.
func (s *supervisor) sayable(command []string) []string {
	list := make([]string, len(command))
	for i, argument := range command {
		list[i] = s.capture.Text(strings.ToValidUTF8(argument, "\uFFFD"))
	}
	return list
}
