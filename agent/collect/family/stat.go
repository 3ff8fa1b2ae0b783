package family

import (
	"bytes"

	"github.com/vigil-ml/vigil/agent/collect/sysfile"
)

// Stat is what a line of /proc/PID/stat says, see proc_pid_stat(5).
type Stat struct {
	Name     string
	State    byte // 'R', 'S', 'D', 'Z' and so on
	Parent   int64
	CPUTicks uint64 // user and system time, in hundredths of a second
	Threads  uint64
	Started  uint64 // hundredths of a second after the machine started: with the pid, who it is
}

// ReadStat reads a line. The name stands in parentheses and may have blanks and
// parentheses itself, so the last one ends it.
func ReadStat(line []byte) (Stat, bool) {
	open, end := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return Stat{}, false
	}
	var f [20][]byte // from the third field of the manual page on
	if sysfile.Fields(line[end+1:], f[:]) < len(f) || len(f[0]) != 1 {
		return Stat{}, false
	}
	parent, ok1 := sysfile.Uint(f[1])
	user, ok2 := sysfile.Uint(f[11])
	system, ok3 := sysfile.Uint(f[12])
	threads, ok4 := sysfile.Uint(f[17])
	started, ok5 := sysfile.Uint(f[19])
	return Stat{
		Name: string(line[open+1 : end]), State: f[0][0], Parent: int64(parent),
		CPUTicks: user + system, Threads: threads, Started: started,
	}, ok1 && ok2 && ok3 && ok4 && ok5
}
