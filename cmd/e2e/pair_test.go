package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/site"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	"github.com/vigil-ml/vigil/trainer"
)

// rankVariable has the directory of a test in the environment of a process that is
// to be a rank of its run.
const rankVariable = "VIGIL_E2E_RANK"

// rank is one rank of a run of two. In the first attempt it saves twice, the
// second time as the test lets it, and fails; in later ones it says where it goes
// on, and ends well.
func rank(dir string) int {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	config, err := trainer.FromEnvironment(os.Getenv)
	if err != nil {
		return fail(err)
	}
	session, err := trainer.Connect(ctx, config, trainer.Deps{})
	if err != nil {
		return fail(err)
	}
	defer func() { _ = session.Close(ctx) }()
	if session.Attempt() == 0 {
		return fail(saveTwice(ctx, session, config.Rank, dir))
	}
	ref, _, err := session.Resume(ctx)
	if err != nil {
		return fail(err)
	}
	weights, err := os.ReadFile(filepath.Join(ref.GetDirectory(), "weights.bin"))
	if err != nil {
		return fail(err)
	}
	session.RunEnded(&commonv1.RunEnded{Outcome: commonv1.Outcome_OUTCOME_SUCCEEDED})
	put(dir, fmt.Sprintf("resumed-%d-%d", session.Attempt(), config.Rank), ref.GetCheckpointId()+" "+string(weights))
	return 0
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, "rank:", err)
	return 1
}

func saveTwice(ctx context.Context, session *trainer.Session, rank uint32, dir string) error {
	save := func(step int64) error {
		order := &trainer.Order{CheckpointID: fmt.Sprint("ck-", step), Patience: time.Second, Reason: commonv1.CheckpointReason_CHECKPOINT_REASON_PERIODIC}
		_, err := session.Save(ctx, order, &commonv1.CheckpointMetadata{Step: step, NonfiniteParameters: new(int64)}, func(staging string) error {
			return os.WriteFile(filepath.Join(staging, "weights.bin"), fmt.Appendf(nil, "step %d of rank %d", step, rank), 0o600)
		})
		return err
	}
	if err := save(1); err != nil {
		return err
	}
	awaitFile(ctx, dir, "whole")
	if rank == 0 {
		if err := save(2); err != nil {
			return err
		}
		put(dir, "half", "")
		awaitFile(ctx, dir, "refused")
		return errors.New("the other rank is gone")
	}
	awaitFile(ctx, dir, "killed")
	err := save(2)
	if !fault.Is(err, fault.Unavailable) {
		return fmt.Errorf("saved without an agent: %w", err)
	}
	put(dir, "refused", err.Error())
	return err
}

// put makes a file with its content.
func put(dir, name, content string) {
	beside := filepath.Join(dir, ".new-"+name)
	_ = os.WriteFile(beside, []byte(content), 0o600)
	_ = os.Rename(beside, filepath.Join(dir, name))
}

// awaitFile waits for a file and gives its content; nothing when ctx ends first.
func awaitFile(ctx context.Context, dir, name string) string {
	for ctx.Err() == nil {
		if text, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			return string(text)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return ""
}

// node is one more node of a site: an agent of its own, and its supervisors.
func (h *house) node(name, vault string) (*site.Site, func() *site.Process) {
	h.t.Helper()
	dir := filepath.Join(h.Dir, name)
	socketDir, err := os.MkdirTemp("", "vigil-")
	if err == nil {
		err = os.Mkdir(dir, 0o700)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = os.RemoveAll(socketDir) })
	s := &site.Site{
		Dir: dir, Bin: h.Bin, API: h.API, Agents: h.Agents, Metrics: "127.0.0.1:" + testkit.FreePort(h.t), Socket: filepath.Join(socketDir, "agent.sock"),
	}
	return s, func() *site.Process {
		h.t.Helper()
		p, err := s.Agent(h.ctx, fmt.Sprintf("node: %s\nvault: {dir: %s}\n", name, vault)+noKernel)
		if err != nil {
			h.t.Fatal(err)
		}
		h.t.Cleanup(p.Kill)
		return p
	}
}

// Two nodes: two agents, two supervisors, one rank each, one shared directory. The
// agent of the second is killed after the first rank has committed a checkpoint and
// before the second has. Nobody goes on from the half of it: neither when the ranks
// agree with the control plane's help, nor when that is gone.
func TestHalfACheckpointOfTwoNodesIsNeverChosen(t *testing.T) {
	h := open(t, "", "")
	dir, vault := t.TempDir(), filepath.Join(h.Dir, "shared")
	var sites [2]*site.Site
	var start [2]func() *site.Process
	var agents [2]*site.Process
	for i := range sites {
		sites[i], start[i] = h.node(fmt.Sprint("node-", i), vault)
		agents[i] = start[i]()
	}
	launch := func() (supervisors [2]*site.Process) {
		for i, s := range sites {
			p, err := s.Supervise("pair", []string{"RANK=" + fmt.Sprint(i), "WORLD_SIZE=2", rankVariable + "=" + dir}, os.Args[0])
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(p.Kill)
			supervisors[i] = p
		}
		return supervisors
	}
	await := func(name string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(h.ctx, time.Minute)
		defer cancel()
		text := awaitFile(ctx, dir, name)
		if ctx.Err() != nil {
			t.Fatalf("there is no %s", name)
		}
		return text
	}
	supervisors := launch()
	for rank := range sites {
		path := filepath.Join(vault, "pair/ck-1", fmt.Sprintf("rank-%05d", rank))
		if ctx := h.ctx; awaitFile(ctx, path, "verified.json") == "" {
			t.Fatalf("rank %d of the first checkpoint is not verified", rank)
		}
	}
	put(dir, "whole", "")
	await("half")
	if awaitFile(h.ctx, filepath.Join(vault, "pair/ck-2/rank-00000"), "verified.json") == "" {
		t.Fatal("the first half is not verified")
	}
	agents[1].Kill()
	put(dir, "killed", "")
	await("refused")
	agents[1] = start[1]()

	resumed := func(attempt int) {
		t.Helper()
		for rank := range sites {
			if got, want := await(fmt.Sprintf("resumed-%d-%d", attempt, rank)), fmt.Sprintf("ck-1 step 1 of rank %d", rank); got != want {
				t.Errorf("attempt %d: rank %d goes on from %q, want %q", attempt, rank, got, want)
			}
		}
		for rank, p := range supervisors {
			if err := p.Wait(h.ctx); err != nil {
				t.Errorf("attempt %d: supervisor %d: %v", attempt, rank, err)
			}
		}
	}
	resumed(1)
	agreedBy(t, sites, "control plane", 1)

	h.controlPlane.Kill()
	supervisors = launch()
	resumed(2)
	agreedBy(t, sites, "files", 1)
}

// agreedBy checks by what each node's rank agreed, and how often.
func agreedBy(t *testing.T, sites [2]*site.Site, by string, want int) {
	t.Helper()
	for i, s := range sites {
		text, err := os.ReadFile(s.Path("vigil-agent.log"))
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, "the ranks agreed") && strings.Contains(line, by) {
				got++
			}
		}
		if got != want {
			t.Errorf("node %d: agreed %d times by %s, want %d; its log:\n%s", i, got, by, want, text)
		}
	}
}
