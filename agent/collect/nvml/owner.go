package nvml

import (
	"strconv"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/agent/collect/family"
	"github.com/vigil-ml/vigil/agent/collect/sysfile"
)

// maxForebears bounds the way from a process up to the trainer that it belongs
// to.
const maxForebears = 16

// owners tells whose a process is.
type owners struct {
	proc     string
	read     sysfile.Reader
	trainers []collect.Trainer // those of this collection
}

// of gives the run and the rank of the trainer that a process is or comes from;
// empty for a process of nobody's.
func (o *owners) of(pid int64) (run, rank string) {
	if len(o.trainers) == 0 {
		return "", ""
	}
	for range maxForebears {
		for _, t := range o.trainers {
			if t.PID == pid {
				return t.RunID, strconv.FormatUint(uint64(t.Rank), 10)
			}
		}
		data, err := o.read.Read(o.proc + "/" + strconv.FormatInt(pid, 10) + "/stat")
		if err != nil {
			return "", ""
		}
		stat, ok := family.ReadStat(data)
		if !ok || stat.Parent <= 1 {
			return "", ""
		}
		pid = stat.Parent
	}
	return "", ""
}
