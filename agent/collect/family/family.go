// Package family finds the processes that belong to each registered trainer:
// itself and its descendants, such as the workers of its data loaders.
package family

import (
	"bytes"
	"errors"
	"io/fs"
	"slices"
	"strconv"
	"time"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/agent/collect/sysfile"
)

const (
	// wholeEvery is how long apart the dear looks are: at the children of every
	// thread, or, where the kernel does not list children, at every process.
	wholeEvery = 30 * time.Second
	// maxMembers bounds a family.
	maxMembers = 4096
)

// Family is a trainer and its processes.
type Family struct {
	collect.Trainer
	// Members is the trainer itself and its descendants.
	Members []Member
}

// Member is a process and how it was when it was looked at.
type Member struct {
	PID int64
	Stat
}

// Finder finds families. Children are those that a process' main thread
// started; those that other threads started are found up to thirty seconds
// later. It is for one goroutine.
type Finder struct {
	proc     string
	trainers func() []collect.Trainer
	read     sysfile.Reader
	looked   time.Time
	known    map[int64][]Member // descendants by trainer, as they were
	path     []byte
}

// New makes a finder that reads below proc, which is "/proc" or where the
// machine's is mounted.
func New(proc string, trainers func() []collect.Trainer) *Finder {
	return &Finder{proc: proc, trainers: trainers, known: map[int64][]Member{}}
}

// Find gives the families, in order of run and rank. A trainer whose process
// is not there any more is left out.
func (f *Finder) Find(now time.Time) []Family {
	trainers := f.trainers()
	slices.SortFunc(trainers, func(a, b collect.Trainer) int {
		if a.RunID != b.RunID {
			return bytes.Compare([]byte(a.RunID), []byte(b.RunID))
		}
		return int(int64(a.Rank) - int64(b.Rank))
	})
	whole := now.Sub(f.looked) >= wholeEvery || now.Before(f.looked)
	var parents map[int64][]int64
	if whole && len(trainers) > 0 {
		f.looked = now
		if !f.listsChildren(trainers[0].PID) {
			parents = f.everyone()
		}
	}
	known := make(map[int64][]Member, len(trainers))
	families := make([]Family, 0, len(trainers))
	for _, t := range trainers {
		first, ok := f.look(t.PID)
		if !ok {
			continue
		}
		before, met := f.known[t.PID]
		seen := append(make([]Member, 0, len(before)+8), first)
		if parents != nil {
			seen = f.descend(seen, parents)
		} else {
			seen = f.again(seen, before)
			seen = f.children(seen, whole || !met)
		}
		known[t.PID] = seen[1:]
		families = append(families, Family{Trainer: t, Members: seen})
	}
	f.known = known
	return families
}

// again adds those that were there before and are still the same.
func (f *Finder) again(seen, before []Member) []Member {
	for _, m := range before {
		if now, ok := f.look(m.PID); ok && now.Started == m.Started {
			seen = append(seen, now)
		}
	}
	return seen
}

// children adds the descendants of those in seen.
func (f *Finder) children(seen []Member, everyThread bool) []Member {
	for i := 0; i < len(seen) && len(seen) < maxMembers; i++ {
		pid := strconv.FormatInt(seen[i].PID, 10)
		threads := []string{pid}
		if everyThread {
			if all, err := f.read.Names(f.file(pid, "/task")); err == nil {
				threads = all
			}
		}
		for _, thread := range threads {
			for _, child := range f.childrenOf(pid, thread) {
				seen = f.add(seen, child)
			}
		}
	}
	return seen
}

func (f *Finder) childrenOf(pid, thread string) (pids []int64) {
	data, err := f.read.Read(f.file(pid, "/task/"+thread+"/children"))
	if err != nil {
		return nil
	}
	for len(data) > 0 {
		var field []byte
		field, data = sysfile.Field(data)
		if child, ok := sysfile.Uint(field); ok {
			pids = append(pids, int64(child))
		}
	}
	return pids
}

// add adds a process that is there and not yet in seen.
func (f *Finder) add(seen []Member, pid int64) []Member {
	if len(seen) >= maxMembers || slices.ContainsFunc(seen, func(m Member) bool { return m.PID == pid }) {
		return seen
	}
	if m, ok := f.look(pid); ok {
		seen = append(seen, m)
	}
	return seen
}

// listsChildren tells whether the kernel does (CONFIG_PROC_CHILDREN).
func (f *Finder) listsChildren(pid int64) bool {
	number := strconv.FormatInt(pid, 10)
	_, err := f.read.Read(f.file(number, "/task/"+number+"/children"))
	if !errors.Is(err, fs.ErrNotExist) {
		return true
	}
	_, there := f.look(pid)
	return !there
}

// everyone gives the children of every process on the machine.
func (f *Finder) everyone() map[int64][]int64 {
	names, _ := f.read.Names(f.proc)
	all := map[int64][]int64{}
	for _, name := range names {
		pid, ok := sysfile.Uint([]byte(name))
		if !ok {
			continue
		}
		data, err := f.read.Read(f.file(name, "/stat"))
		if err != nil {
			continue
		}
		if stat, ok := ReadStat(data); ok {
			all[stat.Parent] = append(all[stat.Parent], int64(pid))
		}
	}
	return all
}

func (f *Finder) descend(seen []Member, children map[int64][]int64) []Member {
	for i := 0; i < len(seen); i++ {
		for _, child := range children[seen[i].PID] {
			seen = f.add(seen, child)
		}
	}
	return seen
}

// look looks at a process; a zombie is not there any more.
func (f *Finder) look(pid int64) (Member, bool) {
	if pid <= 0 {
		return Member{}, false
	}
	data, err := f.read.Read(f.file(strconv.FormatInt(pid, 10), "/stat"))
	if err != nil {
		return Member{}, false
	}
	stat, ok := ReadStat(data)
	return Member{PID: pid, Stat: stat}, ok && stat.State != 'Z' && stat.State != 'X'
}

func (f *Finder) file(pid, rest string) string {
	f.path = append(append(append(append(f.path[:0], f.proc...), '/'), pid...), rest...)
	return string(f.path)
}
