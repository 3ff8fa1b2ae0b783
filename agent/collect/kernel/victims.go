package kernel

import (
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/agent/collect/family"
	"github.com/vigil-ml/vigil/agent/collect/sysfile"
	"github.com/vigil-ml/vigil/internal/xid"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

const (
	// lookEvery is how long apart looks at the trainers' processes are.
	lookEvery = 5 * time.Second
	// remember is how long a process that has ended is still known: the log
	// says who was killed after it was.
	remember = 10 * time.Minute
	// maxRemembered bounds them.
	maxRemembered = 1 << 16
)

// victims knows whose process a number was, and which GPU an address is.
type victims struct {
	proc     string
	families *family.Finder
	trainers func() []collect.Trainer
	read     sysfile.Reader
	looked   time.Time
	pids     map[int64]member
	groups   map[string]string // run by control group
	oom      func() *regexp.Regexp
	group    string // of the process that the kernel is about to kill
	victim   string // its number
}

type member struct {
	collect.Trainer
	seen time.Time
}

func newVictims(proc string, trainers func() []collect.Trainer) *victims {
	return &victims{
		proc: proc, families: family.New(proc, trainers), trainers: trainers,
		pids: map[int64]member{}, groups: map[string]string{},
		oom: re(`^oom-kill:.*,task_memcg=(?P<group>[^,]*),task=.*,pid=(?P<pid>\d+),`),
	}
}

// look looks at which processes the trainers have, not too often.
func (v *victims) look(now time.Time) {
	if now.Sub(v.looked) < lookEvery && !now.Before(v.looked) {
		return
	}
	v.looked = now
	for pid, m := range v.pids {
		if now.Sub(m.seen) > remember {
			delete(v.pids, pid)
		}
	}
	found := v.families.Find(now)
	clear(v.groups)
	for _, f := range found {
		for _, m := range f.Members {
			if len(v.pids) < maxRemembered {
				v.pids[m.PID] = member{f.Trainer, now}
			}
		}
		if group, err := family.Group(&v.read, v.proc, f.PID); err == nil && group != "" && group != "/" {
			v.groups[group] = f.RunID
		}
	}
}

// listen hears the line in which the kernel names the control group of the
// process that it kills in the next one.
func (v *victims) listen(line string) {
	if !strings.HasPrefix(line, "oom-kill:") {
		return
	}
	if found := v.oom().FindStringSubmatch(line); found != nil {
		v.group, v.victim = found[1], found[2]
	}
}

// name says whose process it was and which GPU.
func (v *victims) name(f *commonv1.NodeFault) {
	pid := strconv.FormatInt(f.Pid, 10)
	if m, ok := v.pids[f.Pid]; ok && f.Pid > 0 {
		rank := m.Rank
		f.RunId, f.Rank = m.RunID, &rank
	} else if f.Kind == commonv1.FaultKind_FAULT_KIND_OOM_KILL && pid == v.victim {
		// A child that nobody had looked at yet: its group is its job's.
		for group := path.Clean("/" + v.group); group != "/"; group = path.Dir(group) {
			if run, ok := v.groups[group]; ok {
				f.RunId = run
				break
			}
		}
	}
	switch f.Kind {
	case commonv1.FaultKind_FAULT_KIND_OOM_KILL:
		if pid == v.victim && f.Device == "" {
			f.Device = cut(v.group, 256)
		}
		if f.RunId != "" {
			f.Severity = critical
		}
	case commonv1.FaultKind_FAULT_KIND_XID:
		f.Gpu = v.gpu(f.Device)
	}
}

// gpu gives a GPU's index. NVML counts GPUs in order of their PCI addresses,
// and the driver has a directory for each, also for one that fell off the bus.
func (v *victims) gpu(address string) *uint32 {
	names, err := v.read.Names(v.proc + "/driver/nvidia/gpus")
	if err != nil {
		return nil
	}
	slices.Sort(names)
	at := slices.Index(names, xid.Device(address))
	if at < 0 {
		return nil
	}
	index := uint32(at)
	return &index
}
