package vault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
)

// How the processes of a run agree on the checkpoint that all of them go on
// from, whatever node they are on: by notes on a [board], in rounds. In a round every rank
// joins once its agent has sealed what it had; when all have, one of them writes
// the plan, the checkpoints in the order in which they are to be tried; then each
// rank reads its own files of one after the other and writes down what it found.
// The first that all ranks found good is taken. Notes are written once, so that
// who comes later, or asks again, comes to the same end. docs/formats/checkpoint.md
// has the layout. Which board it is, is in agree_way.go.
const (
	resumeName = ".resume"
	planName   = "plan.json"
	gaveUp     = "gave-up-"           // before a rank's name
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

// meeting is one rank's part in agreeing on a board.
type meeting struct {
	*taking
	board board
	// interrupt gives why it is not to go on here; nil: nothing does.
	interrupt func() error
}

// decision is what a round came to.
type decision struct {
	index int // in the order; -1: none is good
	dirs  map[uint32]string
}

// hold goes through a round, until it is decided. A rank that cannot go on says
// so: the others would wait for it. That stands for all of the round, and who asks
// again is in the same one: what may pass is not said.
func (m *meeting) hold(ctx context.Context, round int) (decision, error) {
	d, err := m.search(ctx, round)
	if err != nil && ctx.Err() == nil && !passing(err) {
		_ = m.board.post(ctx, round, gaveUp+rankName(m.req.Rank), err.Error())
	}
	return d, err
}

// passing tells whether a rank that fails so may go on when it asks again, or
// elsewhere.
func passing(err error) bool {
	switch fault.KindOf(err) {
	case fault.Unavailable, fault.Exhausted, fault.Deadline, fault.Canceled:
		return true
	default:
		return errors.Is(err, errSuperseded) || errors.Is(err, errFiles) || errors.Is(err, errAway)
	}
}

func (m *meeting) search(ctx context.Context, round int) (decision, error) {
	plan, err := m.plan(ctx, round)
	if err != nil {
		return decision{}, err
	}
	if m.list, err = m.vault.listFor(m.req); err != nil {
		return decision{}, err
	}
	m.choose(nil)
	m.order = m.planned(plan)
	for i := range m.order {
		if c := &m.order[i]; c.Problem == "" {
			if err := m.sized(c); err != nil {
				return decision{}, err
			}
		}
		dirs, err := m.check(ctx, round, i)
		if err != nil {
			return decision{}, err
		}
		problem, err := m.verdict(ctx, round, i)
		if err != nil {
			return decision{}, err
		}
		if problem == "" {
			return decision{i, dirs}, nil
		}
		m.passed.at(m.order[i], problem)
	}
	return decision{index: -1}, nil
}

// conclude does what was decided.
func (m *meeting) conclude(d decision) error {
	if d.index < 0 {
		return m.nothing()
	}
	m.take(d.index, d.dirs)
	return nil
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
func (m *meeting) join(ctx context.Context) (round int, err error) {
	for {
		if err := m.board.look(ctx, 0); err != nil {
			return 0, err
		}
		round = m.board.newest()
		if round == 0 || m.over(round) {
			round++
		}
		mine := joining{m.req.Process, m.req.Attempt, m.req.WorldSize}
		err := m.board.post(ctx, round, "joined-"+rankName(m.req.Rank), mine)
		if err != nil && !errors.Is(err, os.ErrExist) {
			return 0, err
		}
		if !m.over(round) {
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
	for _, name := range m.board.names(round) {
		text, found := strings.CutPrefix(name, "joined-")
		rank, ok := parseRank(text)
		var j joining
		if found && ok && m.board.read(round, name, &j) {
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
			"all processes of a run resume together; their nodes share the vault's directory, "+m.vault.config.Dir+", or all reach the control plane")
	}
	if err != nil {
		return nil, err
	}
	if m.board.read(round, planName, &plan) {
		return plan, nil
	}
	if m.list, err = m.vault.listFor(m.req); err != nil {
		return nil, err
	}
	m.choose(nil)
	ids := []string{}
	for _, c := range m.order {
		ids = append(ids, c.ID)
	}
	m.order, m.passed = nil, passedOver{}
	if err := m.board.post(ctx, round, planName, ids); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("agree on a checkpoint: %w", err)
	}
	if !m.board.read(round, planName, &plan) {
		return nil, fault.New(fault.Unavailable, "agree on a checkpoint: the plan of round %d is not readable", round)
	}
	return plan, nil
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
	err = m.board.post(ctx, round, checkedName(i, m.req.Rank), found)
	if err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("agree on a checkpoint: %w", err)
	}
	return dirs, nil
}

// verdict waits for what all ranks found in a checkpoint, or for the first that
// found a problem.
func (m *meeting) verdict(ctx context.Context, round, i int) (problem string, err error) {
	err = m.until(ctx, round, func() bool {
		if problem = m.lost(round); problem != "" {
			return true
		}
		good := 0
		for rank := range m.req.WorldSize {
			var found checking
			if !m.board.read(round, checkedName(i, rank), &found) {
				continue
			}
			if problem = found.Problem; problem != "" {
				return true
			}
			good++
		}
		return good == int(m.req.WorldSize)
	})
	if why := m.lost(round); err == nil && why != "" {
		return "", fault.New(fault.Unavailable, "agree on a checkpoint: %s", why)
	}
	return problem, err
}

// lost says which rank cannot go on, and why; empty: none has said so.
func (m *meeting) lost(round int) string {
	for _, name := range m.board.names(round) {
		var why string
		if rank, found := strings.CutPrefix(name, gaveUp); found && m.board.read(round, name, &why) {
			return rank + " gave up: " + why
		}
	}
	return ""
}

// until looks, less and less often, whether something holds.
func (m *meeting) until(ctx context.Context, round int, holds func() bool) error {
	for wait := firstLook; !holds(); wait = min(wait*3/2, lastLook) {
		if m.board.newest() > round {
			return errSuperseded
		}
		if m.interrupt != nil {
			if err := m.interrupt(); err != nil {
				return err
			}
		}
		if err := m.board.look(ctx, wait); err != nil {
			return fmt.Errorf("agree on a checkpoint: %w", err)
		}
	}
	return nil
}

func checkedName(i int, rank uint32) string { return fmt.Sprintf("checked-%04d-%s", i, rankName(rank)) }
