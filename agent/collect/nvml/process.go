package nvml

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"time"

	"github.com/vigil-ml/vigil/agent/collect/nvml/probe"
	"github.com/vigil-ml/vigil/agent/collect/nvml/wire"
	"github.com/vigil-ml/vigil/internal/life"
)

const (
	// unread is how many messages of the helper wait; with more it waits itself.
	unread = 256
	// killPatience is how long a killed helper may take to go. One that sleeps
	// in the kernel does not, and is left behind.
	killPatience = time.Second
	// mostComplaints bounds what is logged of a helper's own words.
	mostComplaints = 20
)

// process is one helper.
type process struct {
	cmd      *exec.Cmd
	in       io.WriteCloser
	messages chan wire.Message
	ended    chan struct{} // closed once it is gone
	err      error         // why, where it did not end in peace; read after ended
	group    *life.Group
	buffer   []byte
}

// launch starts a helper. Told is given each XID at once, on another goroutine.
func launch(program string, settings probe.Settings, log *slog.Logger, told func(context.Context, *wire.XID)) (*process, error) {
	p := &process{
		cmd:      exec.Command(program, settings.Args()...),
		messages: make(chan wire.Message, unread), ended: make(chan struct{}),
		group: life.NewGroup(context.Background()),
	}
	in, inErr := p.cmd.StdinPipe()
	out, outErr := p.cmd.StdoutPipe()
	complaints, complaintsErr := p.cmd.StderrPipe()
	if err := errors.Join(inErr, outErr, complaintsErr); err != nil {
		return nil, fmt.Errorf("start NVML helper: %w", err)
	}
	p.in = in
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start NVML helper: %w", err)
	}
	p.group.Go("complaints of the NVML helper", func(context.Context) error {
		lines := bufio.NewScanner(complaints)
		for n := 0; lines.Scan(); n++ {
			if n < mostComplaints {
				log.Warn("NVML helper says", "text", lines.Text())
			}
		}
		_, _ = io.Copy(io.Discard, complaints)
		return nil
	})
	p.group.Go("NVML helper", func(ctx context.Context) error {
		defer close(p.ended)
		p.err = p.read(ctx, wire.NewReader(out), told)
		return nil
	})
	return p, nil
}

// read takes what the helper says until it is gone.
func (p *process) read(ctx context.Context, out *wire.Reader, told func(context.Context, *wire.XID)) error {
	broken := error(nil)
	for {
		m, err := out.Next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				broken = err
			}
			break
		}
		if x, ok := m.(*wire.XID); ok {
			told(ctx, x)
			continue
		}
		select {
		case p.messages <- m:
		case <-ctx.Done():
		}
	}
	_ = p.cmd.Process.Kill() // after a broken frame nothing that it says is of use
	return errors.Join(broken, p.cmd.Wait())
}

// ask sends a request. The pipe has room for it: there is one at a time.
func (p *process) ask(r *wire.Request) error {
	p.buffer = wire.Append(p.buffer[:0], r)
	if _, err := p.in.Write(p.buffer); err != nil {
		return fmt.Errorf("ask NVML helper: %w", err)
	}
	return nil
}

// end kills the helper and tells whether it is gone. One that is not holds
// nothing of the agent but its two pipes.
func (p *process) end() bool {
	_ = p.cmd.Process.Kill()
	_ = p.in.Close()
	p.group.Stop()
	timer := time.NewTimer(killPatience)
	defer timer.Stop()
	select {
	case <-p.ended:
		return true
	case <-timer.C:
		return false
	}
}
