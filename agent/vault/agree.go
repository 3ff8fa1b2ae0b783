package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
)

// How the processes of a run agree on the checkpoint that all of them go on
// from, whatever node they are on and whether or not the control plane is there:
// through files on the storage that they share, in rounds. In a round every rank
// joins once its agent has sealed what it had; when all have, one of them writes
// the plan, the checkpoints in the order in which they are to be tried; then each
// rank reads its own files of one after the other and writes down what it found.
// The first that all ranks found good is taken. Files are written once, so that
// who comes later, or asks again, comes to the same end. docs/formats/checkpoint.md
// has the layout.
const (
	resumeName = ".resume"
	planName   = "plan.json"
	firstLook  = 5 * time.Millisecond // how soon it is looked again for what is waited for
	lastLook   = 250 * time.Millisecond
)

// errSuperseded says that a newer round has begun.
var errSuperseded = errors.New("a newer round has begun")

// joining says that a rank takes part in a round.
type joining struct {
	Process   string `json:"process"`
	Attempt   uint32 `json:"attempt"`
	WorldSize uint32 `json:"world_size"`
}

// checking is what a rank found in its files of a round's checkpoints.
type checking struct {
	CheckpointID string `json:"checkpoint_id"`
	Problem      string `json:"problem"` // empty: all of them are good
}

// meeting is one rank's part in agreeing.
type meeting struct {
	*taking
	dir string
}

func (v *Vault) metBefore(runID string) bool {
	return exists(filepath.Join(v.runDir(runID), resumeName))
}

// agree takes the checkpoint that all ranks found good.
func (v *Vault) agree(ctx context.Context, t *taking) error {
	m := &meeting{taking: t, dir: filepath.Join(v.runDir(t.req.RunID), resumeName)}
	for {
		round, err := m.join()
		if err != nil {
			return fmt.Errorf("agree on a checkpoint: %w", err)
		}
		err = m.hold(ctx, round)
		if !errors.Is(err, errSuperseded) {
			return err
		}
		t.order, t.passed = nil, passedOver{}
	}
}

// hold goes through a round.
func (m *meeting) hold(ctx context.Context, round int) error {
	plan, err := m.plan(ctx, round)
	if err != nil {
		return err
	}
	if m.list, err = m.vault.List(m.req.RunID); err != nil {
		return err
	}
	m.choose(nil)
	m.order = m.planned(plan)
	for i := range m.order {
		if err := m.sized(&m.order[i]); err != nil {
			return err
		}
		dirs, err := m.check(ctx, round, i)
		if err != nil {
			return err
		}
		problem, err := m.verdict(ctx, round, i)
		if err != nil {
			return err
		}
		if problem == "" {
			m.take(i, dirs)
			return nil
		}
		m.passed.at(m.order[i], problem)
	}
	return m.nothing()
}

// planned gives the plan's checkpoints as this node sees them.
func (m *meeting) planned(plan []string) []Checkpoint {
	order := make([]Checkpoint, len(plan))
	for i, id := range plan {
		order[i] = Checkpoint{ID: id, Problem: "it is not in this node's vault"}
		if at := slices.IndexFunc(m.list, func(c Checkpoint) bool { return c.ID == id }); at >= 0 {
			order[i] = m.list[at]
		}
	}
	return order
}

// join takes part in the newest round, or begins one where that is not of this
// launch of the run.
func (m *meeting) join() (round int, err error) {
	for {
		round = m.newest()
		if round == 0 || m.over(round) {
			round++
		}
		if err := os.MkdirAll(m.path(round, ""), 0o700); err != nil {
			return 0, err
		}
		mine := joining{m.req.Process, m.req.Attempt, m.req.WorldSize}
		err := writeOnce(m.path(round, "joined-"+rankName(m.req.Rank)), mine)
		if err != nil && !errors.Is(err, os.ErrExist) {
			return 0, err
		}
		if !m.over(round) {
			m.sweepBefore(round)
			return round, nil
		}
	}
}

// over tells whether a round is of an earlier launch: another process of this
// rank took part in it, or one of an earlier attempt, or of another number of
// ranks.
func (m *meeting) over(round int) bool {
	for rank, j := range m.joined(round) {
		if j.WorldSize != m.req.WorldSize || j.Attempt < m.req.Attempt || (rank == m.req.Rank && j.Process != m.req.Process) {
			return true
		}
	}
	return false
}

func (m *meeting) joined(round int) map[uint32]joining {
	all := map[uint32]joining{}
	names, _ := filepath.Glob(m.path(round, "joined-*"))
	for _, name := range names {
		rank, ok := parseRank(strings.TrimPrefix(filepath.Base(name), "joined-"))
		var j joining
		if ok && readInto(name, &j) == nil {
			all[rank] = j
		}
	}
	return all
}

// plan waits until all ranks have joined and gives the checkpoints in the order
// in which they are to be tried; the first to see that writes it.
func (m *meeting) plan(ctx context.Context, round int) (plan []string, err error) {
	limited, cancel := context.WithTimeout(ctx, m.vault.config.AgreeWait)
	defer cancel()
	var joined map[uint32]joining
	err = m.until(limited, round, func() bool {
		joined = m.joined(round)
		return len(joined) == int(m.req.WorldSize)
	})
	if err != nil && ctx.Err() == nil && limited.Err() != nil {
		var absent []string
		for rank := range m.req.WorldSize {
			if _, ok := joined[rank]; !ok && len(absent) < 10 {
				absent = append(absent, strconv.Itoa(int(rank)))
			}
		}
		return nil, fault.WithHint(
			fault.New(fault.Unavailable, "agree on a checkpoint: %d of %d ranks asked for it within %s; missing are ranks %s",
				len(joined), m.req.WorldSize, m.vault.config.AgreeWait, strings.Join(absent, ", ")),
			"all processes of a run resume together, and their nodes share the vault's directory: "+m.vault.config.Dir)
	}
	if err != nil {
		return nil, err
	}
	path := m.path(round, planName)
	if !exists(path) {
		if m.list, err = m.vault.List(m.req.RunID); err != nil {
			return nil, err
		}
		m.choose(nil)
		ids := []string{}
		for _, c := range m.order {
			ids = append(ids, c.ID)
		}
		m.order, m.passed = nil, passedOver{}
		if err := writeOnce(path, ids); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("agree on a checkpoint: %w", err)
		}
	}
	return plan, readInto(path, &plan)
}

// check reads this rank's files of a checkpoint and writes down what it found.
func (m *meeting) check(ctx context.Context, round, i int) (dirs map[uint32]string, err error) {
	c := &m.order[i]
	found := checking{CheckpointID: c.ID, Problem: c.Problem}
	if found.Problem == "" {
		dirs, err = m.provide(ctx, c)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			found.Problem = fmt.Sprintf("rank %d: %v", m.req.Rank, err)
		}
	}
	err = writeOnce(m.path(round, checkedName(i, m.req.Rank)), found)
	if err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("agree on a checkpoint: %w", err)
	}
	return dirs, nil
}

// verdict waits for what all ranks found in a checkpoint, or for the first that
// found a problem.
func (m *meeting) verdict(ctx context.Context, round, i int) (problem string, err error) {
	err = m.until(ctx, round, func() bool {
		good := 0
		for rank := range m.req.WorldSize {
			var found checking
			if readInto(m.path(round, checkedName(i, rank)), &found) != nil {
				continue
			}
			if problem = found.Problem; problem != "" {
				return true
			}
			good++
		}
		return good == int(m.req.WorldSize)
	})
	return problem, err
}

// until looks, less and less often, whether something holds.
func (m *meeting) until(ctx context.Context, round int, holds func() bool) error {
	for wait := firstLook; !holds(); wait = min(wait*3/2, lastLook) {
		if m.newest() > round {
			return errSuperseded
		}
		if !life.Sleep(ctx, wait) {
			return fmt.Errorf("agree on a checkpoint: %w", ctx.Err())
		}
	}
	return nil
}

// newest gives the newest round; 0 when there is none.
func (m *meeting) newest() int {
	newest := 0
	entries, _ := os.ReadDir(m.dir)
	for _, entry := range entries {
		if n, err := strconv.Atoi(entry.Name()); err == nil {
			newest = max(newest, n)
		}
	}
	return newest
}

// sweepBefore removes rounds that nobody reads any more; the one before stays
// for those who are still in it.
func (m *meeting) sweepBefore(round int) {
	entries, _ := os.ReadDir(m.dir)
	for _, entry := range entries {
		if n, err := strconv.Atoi(entry.Name()); err == nil && n < round-1 {
			_ = m.vault.deps.FS.RemoveAll(filepath.Join(m.dir, entry.Name()))
		}
	}
}

func (m *meeting) path(round int, name string) string {
	return filepath.Join(m.dir, fmt.Sprintf("%08d", round), name)
}

func checkedName(i int, rank uint32) string { return fmt.Sprintf("checked-%04d-%s", i, rankName(rank)) }

// writeOnce makes a file with all of its content, and fails with [os.ErrExist]
// when it is there. It need not survive a crash: processes that agree live.
func writeOnce(path string, content any) error {
	data, err := json.Marshal(content)
	if err != nil {
		return err
	}
	beside := filepath.Join(filepath.Dir(path), ".new-"+uuid.NewString())
	if err := os.WriteFile(beside, data, 0o600); err != nil {
		return err
	}
	defer func() { _ = os.Remove(beside) }()
	return os.Link(beside, path)
}

func readInto(path string, into any) error {
	data, err := readBounded(path, 1<<20)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}
