package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
)

// process is a command that runs as the leader of its own process group.
type process struct {
	cmd   *exec.Cmd
	group *life.Group
	ended chan struct{}
	state *os.ProcessState // once ended is closed
	err   error            // why there is no state
}

// start launches a command; end must be called. It fails with fault.NotFound
// or fault.Denied when the program is not there or may not be run.
func start(ctx context.Context, cmd *exec.Cmd) (*process, error) {
	cmd.SysProcAttr = groupLeader()
	p := &process{cmd: cmd, group: life.NewGroup(context.WithoutCancel(ctx)), ended: make(chan struct{})}
	started := make(chan error, 1)
	p.group.Go("wait for command", func(context.Context) error {
		// Where the kernel kills the command together with the supervisor, it
		// looks at the thread that started it: this one must stay.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.ended)
		err := cmd.Start()
		started <- err
		if err != nil {
			return nil
		}
		p.state, p.err = waitState(cmd, cmd.Wait())
		return nil
	})
	if err := <-started; err != nil {
		_ = p.group.Wait()
		return nil, startError(cmd, err)
	}
	return p, nil
}

func startError(cmd *exec.Cmd, err error) error {
	err = fmt.Errorf("start %s: %w", cmd.Args[0], err)
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, os.ErrNotExist):
		return fault.Mark(fault.NotFound, err)
	case errors.Is(err, os.ErrPermission):
		return fault.Mark(fault.Denied, err)
	}
	return err
}

// tell gives a signal to the command alone.
func (p *process) tell(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// tellGroup gives a signal to the whole group. Its leader may be gone already.
func (p *process) tellGroup(s syscall.Signal) { _ = syscall.Kill(-p.cmd.Process.Pid, s) }

// end kills what is left of the group and waits for the command.
func (p *process) end() {
	p.tellGroup(syscall.SIGKILL)
	_ = p.group.Wait()
}
