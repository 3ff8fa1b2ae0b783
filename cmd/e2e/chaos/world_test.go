package chaos

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	runID = "chaos"
	// limit is when a run counts as one that does not end.
	limit = 90 * time.Second
	// vaultBytes is the size of the file system that checkpoints lie on: room for
	// all of a run's, and not much more.
	vaultBytes = 12 << 20
)

// part is a program of the world.
type part struct {
	cmd  *exec.Cmd
	done chan struct{}
}

// launch starts a program with its output appended to a log.
func launch(log string, environ []string, program string, args ...string) (*part, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr, cmd.Env = out, out, append(os.Environ(), environ...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &part{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = cmd.Wait()
		_ = out.Close()
	}()
	return p, nil
}

func (p *part) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

func (p *part) over() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// world is where one run is played.
type world struct {
	t      *testing.T
	plan   plan
	dir    string
	socket string
	log    string // of supervisor and trainer
	began  time.Time
	agent  *part
	boss   *part // the supervisor
	mounts bool  // the vault has a file system of its own
	second *second
	copies int // ranks of checkpoints that the second store has

	ledger []damage
	counts map[kind]int

	mu    sync.Mutex // guards agent and held
	held  bool       // the agent is to stay away
	ended chan struct{}
}

func (w *world) vault() string { return filepath.Join(w.dir, "vault") }
func (w *world) filler() string {
	return filepath.Join(w.vault(), ".filler")
}

// build makes a world; the caller closes it.
func build(t *testing.T, p plan) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "vigil-chaos-")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, plan: p, dir: dir, socket: filepath.Join(dir, "s"), log: filepath.Join(dir, "run.log"), counts: map[kind]int{}, held: true, ended: make(chan struct{})}
	go w.keepAgent()
	if err := os.Mkdir(w.vault(), 0o700); err != nil {
		t.Fatal(err)
	}
	w.mounts = syscall.Mount("tmpfs", w.vault(), "tmpfs", 0, fmt.Sprintf("size=%d", vaultBytes)) == nil
	w.second = openSecond(dir)
	config := fmt.Sprintf(`node: chaos
state_dir: %[1]s/agent
listen: "127.0.0.1:0"
trainers: {socket: %[1]s/s}
uplink: {address: "127.0.0.1:1"}
vault: {dir: %[1]s/vault, retry_delay: 50ms%[2]s}
reflex: {wait: 10ms}
log: {level: debug}
collectors:
  host: {off: true}
  tasks: {off: true}
  cgroup: {off: true}
  process: {off: true}
  process_memory: {off: true}
  kernel: {off: true}
  fabric: {off: true}
  nvml: {off: true}
`, dir, w.second.settings())
	if err := os.WriteFile(filepath.Join(dir, "agent.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

// close ends everything and removes the world.
func (w *world) close() {
	close(w.ended)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held = true
	for _, p := range []*part{w.boss, w.agent} {
		if p != nil && !p.over() {
			_ = p.cmd.Process.Signal(syscall.SIGTERM)
			select {
			case <-p.done:
			case <-time.After(10 * time.Second):
				p.kill()
			}
		}
	}
	if w.mounts {
		if err := syscall.Unmount(w.vault(), syscall.MNT_DETACH); err != nil {
			w.t.Errorf("unmount: %v", err)
		}
	}
	if w.second != nil {
		w.second.close()
	}
	_ = os.RemoveAll(w.dir)
}

func program(name string) string { return filepath.Join(os.Getenv(binVariable), name) }

// killAgent kills the agent, which stays away until startAgent.
func (w *world) killAgent() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held = true
	w.agent.kill()
}

// keepAgent starts an agent that ended by itself, as when its disk is full, anew:
// a service manager does.
func (w *world) keepAgent() {
	for {
		select {
		case <-w.ended:
			return
		case <-time.After(100 * time.Millisecond):
		}
		w.mu.Lock()
		if !w.held && w.agent.over() {
			w.launchAgent()
		}
		w.mu.Unlock()
	}
}

func (w *world) startAgent() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held = false
	w.launchAgent()
}

func (w *world) launchAgent() {
	var err error
	w.agent, err = launch(filepath.Join(w.dir, "agent.log"), w.second.environ(), program("vigil-agent"), "--config", filepath.Join(w.dir, "agent.yaml"))
	if err != nil {
		w.t.Error(err)
	}
}

func (w *world) startSupervisor() {
	args := []string{"run", "--socket", w.socket, "--run-id", runID, "--max-restarts", "100", "--", program("vigil-trainer"), "train",
		"--steps", strconv.Itoa(steps), "--checkpoint-every", strconv.Itoa(saveEvery), "--evaluate-every", "0", "--pace", pace.String()}
	if faults := w.plan.injected(); faults != "" {
		args = append(args, "--inject", faults)
	}
	var err error
	// A directory of its own for the supervisor's files, so that it is seen
	// whether it leaves something behind.
	w.boss, err = launch(w.log, []string{"TMPDIR=" + w.dir}, program("vigil-trainer"), args...)
	if err != nil {
		w.t.Fatal(err)
	}
}

// trainerPID finds the training process; 0 when there is none.
func (w *world) trainerPID() int {
	pid := w.boss.cmd.Process.Pid
	paths, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, path := range paths {
		text, _ := os.ReadFile(path)
		for _, field := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				return child
			}
		}
	}
	return 0
}

// strike has a blow fall.
func (w *world) strike(b blow) {
	switch b.kind {
	case killTrainer:
		if pid := w.trainerPID(); pid != 0 && syscall.Kill(pid, syscall.SIGKILL) == nil {
			w.counts[b.kind]++
		}
	case killSupervisor:
		w.boss.kill()
		w.counts[b.kind]++
		w.rest(b.away)
		w.startSupervisor()
	case killAgent:
		w.killAgent()
		w.counts[b.kind]++
		w.rest(b.away)
		w.startAgent()
	case killAll:
		w.killAgent()
		w.boss.kill()
		w.counts[b.kind]++
		w.rest(b.away)
		w.startAgent()
		w.startSupervisor()
	case flipBit, tearFile, removeFile:
		if b.quiet {
			w.killAgent()
		}
		if w.damage(b) {
			w.counts[b.kind]++
		}
		if b.quiet {
			w.startAgent()
		}
	case fillDisk:
		if w.mounts {
			w.fill()
			w.counts[b.kind]++
			w.rest(b.away)
			_ = os.Remove(w.filler())
		}
	case killSecond, refuseSecond, stopSecond:
		if w.second != nil {
			w.second.fail(b.kind, func() { w.rest(b.away) })
			w.counts[b.kind]++
		}
	case nanGradient, nanParameter:
		w.counts[b.kind]++ // the trainer does it, and the log must say so
	}
}

// rest lets time pass, but not past the end of the run.
func (w *world) rest(d time.Duration) {
	select {
	case <-w.boss.done:
	case <-time.After(d):
	}
}

// play plays the run to its end and gives whether it ended.
func (w *world) play() bool {
	w.began = time.Now()
	w.startAgent()
	w.startSupervisor()
	for _, b := range w.plan.blows {
		if wait := b.at - time.Since(w.began); wait > 0 {
			select {
			case <-time.After(wait):
			case <-w.boss.done:
			}
		}
		if w.boss.over() && b.kind != nanGradient && b.kind != nanParameter {
			break // the run is over: it was quicker than the blow
		}
		w.strike(b)
	}
	select {
	case <-w.boss.done:
	case <-time.After(limit):
		return false
	}
	return w.boss.cmd.ProcessState.ExitCode() == 0
}
