package site

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/vigil-ml/vigil/internal/life"
)

// StopWait is how long a process that was asked to stop may take before it is
// killed.
const StopWait = 15 * time.Second

// Process is one running program, in a process group of its own, so that
// Ctrl-C at the terminal does not reach it. Methods are safe for concurrent
// use.
type Process struct {
	Name string
	Log  string // path of the file with what it prints

	cmd   *exec.Cmd
	group *life.Group
	done  chan struct{}
	err   error // valid once done is closed
}

// start runs a program, with more of an environment, and its output appended to a
// log file.
func start(logPath string, environ []string, program string, args ...string) (*Process, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open log of %s: %w", program, err)
	}
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), environ...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", program, err), log.Close())
	}
	p := &Process{Name: program, Log: logPath, cmd: cmd, group: life.NewGroup(context.Background()), done: make(chan struct{})}
	p.group.Go("wait for "+program, func(context.Context) error {
		p.err = errors.Join(cmd.Wait(), log.Close())
		close(p.done)
		return nil
	})
	return p, nil
}

// PID is the process' id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the process to end by itself; when ctx ends first, it is
// stopped. A non-zero exit is an error.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return errors.Join(ctx.Err(), p.Stop())
	}
}

// Stop asks the process to end, and kills its group when it does not.
func (p *Process) Stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return nil
	case <-time.After(StopWait):
		p.Kill()
		return fmt.Errorf("stop %s: it did not end within %v and was killed; see %s", p.Name, StopWait, p.Log)
	}
}

// Kill sends SIGKILL to the process and all that it started, and waits for it.
func (p *Process) Kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}
