package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/trainer/supervise/cgroup"
	"github.com/vigil-ml/vigil/trainer/supervise/output"
)

// drainWait is how long the rest of the output is waited for once every process
// that is known is gone.
const drainWait = 2 * time.Second

// process is a command that runs as the leader of its own process group.
type process struct {
	cmd    *exec.Cmd
	group  *life.Group
	ended  chan struct{}
	state  *os.ProcessState // once ended is closed
	err    error            // why there is no state
	output *life.Group      // takes what it prints
	pipes  []*os.File       // our ends
	marker string           // what its descendants have in their environment
	adopts bool             // orphans become the supervisor's children
	inside *cgroup.Group    // that it runs in; nil: none of its own
}

// stream is one of a command's outputs: where it goes, and who looks at it.
type stream struct {
	out  *os.File
	also io.Writer
}

// start launches a command, in a control group unless inside is nil; end must be
// called. It fails with fault.NotFound or fault.Denied when the program is not
// there or may not be run.
func start(ctx context.Context, cmd *exec.Cmd, inside *cgroup.Group, capture *output.Capture, stdout, stderr stream, marker string) (*process, error) {
	cmd.SysProcAttr = groupLeader()
	base := context.WithoutCancel(ctx)
	p := &process{
		cmd: cmd, group: life.NewGroup(base), output: life.NewGroup(base), ended: make(chan struct{}), marker: marker, inside: inside,
	}
	theirs := make([]*os.File, 0, 2)
	for _, s := range []struct {
		stream
		into *io.Writer
	}{{stdout, &cmd.Stdout}, {stderr, &cmd.Stderr}} {
		r, w, err := os.Pipe()
		if err != nil {
			p.closePipes(theirs)
			return nil, fmt.Errorf("make pipe for output: %w", err)
		}
		p.pipes, theirs, *s.into = append(p.pipes, r), append(theirs, w), w
		p.output.Go("output", func(context.Context) error {
			_ = capture.Copy(s.out, r, s.also) // a terminal that is gone is no reason to end
			return nil
		})
	}
	started := make(chan error, 1)
	p.group.Go("wait for command", func(context.Context) error {
		// Where the kernel kills the command together with the supervisor, it
		// looks at the thread that started it: this one must stay.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.ended)
		err := p.launch()
		for _, w := range theirs {
			_ = w.Close()
		}
		started <- err
		if err != nil {
			return nil
		}
		p.state, p.err = waitState(p.cmd, p.cmd.Wait())
		return nil
	})
	if err := <-started; err != nil {
		_ = p.group.Wait()
		_ = p.output.Wait()
		p.closePipes(nil)
		return nil, startError(cmd, err)
	}
	return p, nil
}

// launch starts the command, in its control group where it has one.
func (p *process) launch() (err error) {
	if p.inside == nil {
		return p.cmd.Start()
	}
	p.cmd, err = p.inside.Launch(p.cmd)
	return err
}

func (p *process) closePipes(more []*os.File) {
	for _, f := range append(more, p.pipes...) {
		_ = f.Close()
	}
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

// waitState gives the state of a process that ended, and an error when it
// could not be waited for.
func waitState(cmd *exec.Cmd, err error) (*os.ProcessState, error) {
	if cmd.ProcessState != nil {
		return cmd.ProcessState, nil
	}
	return nil, fmt.Errorf("wait for %s: %w", cmd.Path, err)
}

// tell gives a signal to the command alone.
func (p *process) tell(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// tellGroup gives a signal to the whole group. Its leader may be gone already.
func (p *process) tellGroup(s syscall.Signal) { _ = syscall.Kill(-p.cmd.Process.Pid, s) }

// end kills what is left of the group and of whatever else descends from it,
// waits for the command and for its last output, and gives how many processes
// had left the group.
func (p *process) end() (strays int) {
	p.tellGroup(syscall.SIGKILL)
	_ = p.group.Wait()
	if p.inside != nil {
		strays = p.inside.Kill()
	}
	strays += sweepDescendants(p.marker, p.adopts)
	// Somebody whom we may not kill can still hold the pipe.
	timer := time.AfterFunc(drainWait, func() { p.closePipes(nil) })
	_ = p.output.Wait()
	timer.Stop()
	p.closePipes(nil)
	return strays
}
