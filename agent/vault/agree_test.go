package vault_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

// plane keeps notes as the control plane does.
type plane struct {
	mu    sync.Mutex
	notes map[string][]*agentv1.AgreementNote
	news  chan struct{}
	calls int
	// reached, unless nil, tells whether a node's call arrives; counted from 1.
	reached func(node, call int) bool
}

func newPlane() *plane {
	return &plane{notes: map[string][]*agentv1.AgreementNote{}, news: make(chan struct{})}
}

// cutOff is a plane that nobody reaches.
func cutOff() *plane {
	p := newPlane()
	p.reached = func(int, int) bool { return false }
	return p
}

// of gives the way to the plane from one node.
func (p *plane) of(node int) vault.Meet {
	return func(ctx context.Context, in *agentv1.MeetRequest) (*agentv1.MeetResponse, error) {
		late := time.After(in.GetWait().AsDuration())
		if !p.arrives(node, in) {
			return nil, fault.New(fault.Unavailable, "cut off")
		}
		for {
			out, news := p.behind(in)
			if len(out.Notes) > 0 {
				return out, nil
			}
			select {
			case <-news:
			case <-late:
				return out, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
}

// arrives posts what a call brings, if it arrives.
func (p *plane) arrives(node int, in *agentv1.MeetRequest) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls++
	if p.reached != nil && !p.reached(node, p.calls) {
		return false
	}
posting:
	for _, note := range in.GetNotes() {
		for _, have := range p.notes[in.GetRunId()] {
			if have.Round == note.Round && have.Name == note.Name {
				continue posting
			}
		}
		note.Place = int64(len(p.notes[in.GetRunId()]) + 1)
		p.notes[in.GetRunId()] = append(p.notes[in.GetRunId()], note)
		close(p.news)
		p.news = make(chan struct{})
	}
	return true
}

func (p *plane) behind(in *agentv1.MeetRequest) (*agentv1.MeetResponse, chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := &agentv1.MeetResponse{}
	for _, note := range p.notes[in.GetRunId()] {
		if note.Place > in.GetAfter() {
			out.Notes = append(out.Notes, note)
		}
	}
	return out, p.news
}

// met is nodes with one rank each that may agree with a control plane.
func met(t *testing.T, p *plane, dirs []string, deps func(*vault.Deps)) (agents []*bench, by func(string) float64) {
	t.Helper()
	registries := make([]*prometheus.Registry, len(dirs))
	for node, dir := range dirs {
		registries[node] = prometheus.NewRegistry()
		b := openDeps(t, dir, func(d *vault.Deps) {
			d.Metrics, d.Meet, d.Node = registries[node], p.of(node), fmt.Sprint("n", node)
			if deps != nil {
				deps(d)
			}
		}, func(c *vault.Config) {
			c.StagingDir, c.AgreeAway = filepath.Join(dir, fmt.Sprint("staging", node)), 30*time.Millisecond
		})
		b.run()
		agents = append(agents, b)
	}
	return agents, func(by string) (sum float64) {
		for _, r := range registries {
			families, err := r.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range families {
				for _, m := range f.GetMetric() {
					if f.GetName() == "vigil_agent_vault_agreements_total" && m.GetLabel()[0].GetValue() == by {
						sum += m.GetCounter().GetValue()
					}
				}
			}
		}
		return sum
	}
}

// three is three nodes that share a directory with two checkpoints.
func three(t *testing.T, p *plane) (agents []*bench, by func(string) float64) {
	dir := t.TempDir()
	agents, by = met(t, p, []string{dir, dir, dir}, nil)
	for _, part := range append(ofRanks("old", 1, 3), ofRanks("new", 2, 3)...) {
		agents[part.rank].mustSave(part)
		agents[part.rank].wait(part.id, "VERIFIED")
	}
	return agents, by
}

// wanted checks that every rank goes on from one checkpoint.
func wanted(t *testing.T, what string, answers []asked, want string) {
	t.Helper()
	for rank, a := range answers {
		if a.err != nil || a.id != want {
			t.Errorf("%s: rank %d goes on from %q, %v; want %s", what, rank, a.id, a.err, want)
		}
	}
}

func TestRanksAgreeWithTheControlPlane(t *testing.T) {
	agents, by := three(t, newPlane())
	wanted(t, "first", askAll(t, agents, 1, "first"), "new")
	wanted(t, "asked again", askAll(t, agents, 1, "first"), "new")
	damage(t, agents[0], "new", 2)
	wanted(t, "a rank's file is damaged", askAll(t, agents, 2, "second"), "old")
	if by("control plane") != 9 || by("files") != 0 {
		t.Errorf("%v agreements with the control plane, %v through files; want 9 and 0", by("control plane"), by("files"))
	}
	if plans, _ := filepath.Glob(filepath.Join(agents[0].dir, "vault/run/.resume/*/plan.json")); len(plans) > 0 {
		t.Errorf("plans were made through files: %v", plans)
	}
}

func TestRanksAgreeWithoutTheControlPlane(t *testing.T) {
	p := cutOff()
	agents, by := three(t, p)
	damage(t, agents[0], "new", 1)
	wanted(t, "no control plane", askAll(t, agents, 1, "first"), "old")
	if by("files") != 3 {
		t.Errorf("%v agreements through files, want 3", by("files"))
	}
	p.mu.Lock()
	p.reached = nil
	p.mu.Unlock()
	wanted(t, "it is back", askAll(t, agents, 2, "second"), "old")
	if by("control plane") != 3 {
		t.Errorf("%v agreements with the control plane, want 3", by("control plane"))
	}
}

// The control plane goes out of reach at one call after another, of one node or
// of all, while they agree: all ranks go on from one checkpoint, whether that
// node comes to see the decision of the others or they see that it cannot.
func TestTheControlPlaneIsLostWhileTheyAgree(t *testing.T) {
	p := newPlane()
	agents, by := three(t, p)
	damage(t, agents[0], "new", 2)
	attempt := uint32(0)
	for _, alone := range []bool{true, false} {
		for at := 1; ; at += 2 {
			attempt++
			lost := false
			p.mu.Lock()
			p.calls = 0
			p.reached = func(node, call int) bool {
				gone := call >= at && (node == 1 || !alone)
				lost = lost || gone
				return !gone
			}
			p.mu.Unlock()
			wanted(t, fmt.Sprintf("lost at call %d, by one node alone: %v", at, alone), askAll(t, agents, attempt, fmt.Sprint("launch", attempt)), "old")
			if !lost {
				if at < 9 {
					t.Errorf("agreeing took only %d calls: the test does not see them", at)
				}
				break
			}
		}
	}
	if by("files") == 0 || by("control plane") == 0 {
		t.Errorf("%v agreements through files and %v with the control plane: the test sees only one", by("files"), by("control plane"))
	}
}

// Nodes that share no directory, only a second store, agree with the control
// plane; without it they refuse, and none goes on alone.
func TestNodesThatShareNothingAgree(t *testing.T) {
	p, home := newPlane(), t.TempDir()
	second := replica(t, filepath.Join(home, "second"))
	dirs := []string{filepath.Join(home, "one"), filepath.Join(home, "two")}
	agents, by := met(t, p, dirs[:1], func(d *vault.Deps) { d.Replica = second })
	old, fresh := ofRanks("old", 1, 2), ofRanks("new", 2, 2)
	agents[0].mustSave(append(old, fresh...)...)
	testkit.Eventually(t, "copies of all ranks", func() bool {
		done, err := filepath.Glob(filepath.Join(home, "one/vault/run/*/rank-*/replicated.json"))
		return err == nil && len(done) == 4
	})
	// The second node is new; in the second store its file of the newest is damaged.
	if err := os.WriteFile(filepath.Join(home, "second/run/new/rank-00001/files/weights.bin"), []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	more, byMore := met(t, p, dirs[1:], func(d *vault.Deps) { d.Replica = second })
	wanted(t, "they share nothing", askAll(t, append(agents, more...), 1, "first"), "old")
	if by("control plane")+byMore("control plane") != 2 {
		t.Errorf("%v and %v agreements with the control plane", by("control plane"), byMore("control plane"))
	}
	if diff := cmp.Diff(old[1].files, readFiles(t, filepath.Join(dirs[1], "vault/run/old/rank-00001/files"))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// A rank that cannot go on says so, and the others do not wait for it.
func TestARankThatGivesUpIsNotWaitedFor(t *testing.T) {
	for name, p := range map[string]*plane{"with the control plane": newPlane(), "through files": cutOff()} {
		agents, _ := three(t, p)
		var wait sync.WaitGroup
		errs := make([]error, 2)
		for rank := range errs {
			wait.Go(func() {
				// What three ranks saved rank 1 cannot go on from, and rank 0 could.
				_, _, errs[rank] = agents[rank].Resolve(t.Context(), vault.ResolveRequest{
					RunID: "run", Rank: uint32(rank), WorldSize: 2, Process: "p", CanReshard: rank == 0,
				})
			})
		}
		wait.Wait()
		if !fault.Is(errs[1], fault.Precondition) || !fault.Is(errs[0], fault.Unavailable) || !strings.Contains(fmt.Sprint(errs[0]), "rank-00001 gave up: checkpoint new") {
			t.Errorf("%s: rank 0: %v; rank 1: %v", name, errs[0], errs[1])
		}
	}
}

// A node with nothing, apart from the others and cut off, does not begin anew.
func TestANodeThatIsCutOffDoesNotBeginAnew(t *testing.T) {
	p, home := cutOff(), t.TempDir()
	b := openDeps(t, filepath.Join(home, "one"), func(d *vault.Deps) {
		d.Replica, d.Meet = replica(t, filepath.Join(home, "second")), p.of(0)
	}, func(c *vault.Config) { c.AgreeAway, c.AgreeWait = 10*time.Millisecond, 50*time.Millisecond })
	b.run()
	ref, _, err := b.Resolve(t.Context(), vault.ResolveRequest{RunID: "run", Rank: 1, WorldSize: 2, Process: "p"})
	if ref != nil || !fault.Is(err, fault.Unavailable) || !strings.Contains(fault.HintOf(err), "reach the control plane") {
		t.Errorf("%v, %v", ref, err)
	}
}

// TestWhoComesLateIsNotLostFor: a rank that did not wait long enough for the others
// asks again, in the same round, and all agree.
func TestWhoComesLateIsNotLostFor(t *testing.T) {
	for name, p := range map[string]*plane{"with the control plane": newPlane(), "through files": cutOff()} {
		dir := t.TempDir()
		b := openDeps(t, dir, func(d *vault.Deps) { d.Meet = p.of(0) }, func(c *vault.Config) {
			c.AgreeAway, c.AgreeWait = 10*time.Millisecond, 200*time.Millisecond
		})
		b.run()
		for _, part := range ofRanks("ck", 1, 2) {
			b.mustSave(part)
		}
		testkit.Eventually(t, "both ranks", func() bool { return b.Saved("run", "ck") })
		ask := func(rank uint32) (string, error) {
			ref, _, err := b.Resolve(t.Context(), vault.ResolveRequest{RunID: "run", Rank: rank, WorldSize: 2, Process: "p"})
			return ref.GetCheckpointId(), err
		}
		if _, err := ask(0); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "missing are ranks 1") {
			t.Errorf("%s: rank 0 alone: %v", name, err)
		}
		late := make(chan error, 1)
		go func() {
			var err error
			for range 50 { // as the trainer does with what is unavailable
				if _, err = ask(1); !fault.Is(err, fault.Unavailable) || strings.Contains(err.Error(), "gave up") {
					break
				}
			}
			late <- err
		}()
		var id string
		var err error
		for range 50 {
			if id, err = ask(0); !fault.Is(err, fault.Unavailable) || strings.Contains(err.Error(), "gave up") {
				break
			}
		}
		if err != nil || id != "ck" {
			t.Errorf("%s: rank 0 goes on from %q, %v", name, id, err)
		}
		if err := <-late; err != nil {
			t.Errorf("%s: rank 1: %v", name, err)
		}
	}
}
