package kernel

import (
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/vigil-ml/vigil/internal/xid"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// maxMessage is the most bytes of a fault's message.
const maxMessage = 512

const (
	info     = commonv1.FaultSeverity_FAULT_SEVERITY_INFO
	warning  = commonv1.FaultSeverity_FAULT_SEVERITY_WARNING
	critical = commonv1.FaultSeverity_FAULT_SEVERITY_CRITICAL
)

// rule says what a line of the kernel means. The groups of its pattern named
// device, pid, process and code fill the fault's fields.
type rule struct {
	kind     commonv1.FaultKind
	hint     string // stands in every line that the pattern fits: most lines are told apart by it
	pattern  func() *regexp.Regexp
	severity commonv1.FaultSeverity
	title    string
	advice   string
	finish   func(fault *commonv1.NodeFault, line string) // may be nil
}

// interpreter finds faults in lines.
type interpreter struct {
	rules []rule
}

func newInterpreter() *interpreter {
	var all []rule
	for _, part := range [][]rule{gpuRules(), memoryRules(), storageRules(), networkRules(), taskRules()} {
		all = append(all, part...)
	}
	return &interpreter{rules: all}
}

// fault gives what a line says is broken, nil for most lines. The first rule
// that fits counts.
func (in *interpreter) fault(line string) *commonv1.NodeFault {
	for i := range in.rules {
		r := &in.rules[i]
		if !strings.Contains(line, r.hint) {
			continue
		}
		found := r.pattern().FindStringSubmatch(line)
		if found == nil {
			continue
		}
		f := &commonv1.NodeFault{
			Kind: r.kind, Title: r.title, Advice: r.advice, Severity: r.severity,
			Source: "kmsg", Message: cut(line, maxMessage),
		}
		for j, name := range r.pattern().SubexpNames() {
			fill(f, name, found[j])
		}
		if r.finish != nil {
			r.finish(f, line)
		}
		return f
	}
	return nil
}

func fill(f *commonv1.NodeFault, group, value string) {
	switch group {
	case "device":
		f.Device = value
	case "process":
		f.Process = value
	case "pid":
		if n, err := strconv.ParseInt(value, 10, 32); err == nil {
			f.Pid = n
		}
	case "code":
		if n, err := strconv.ParseInt(value, 10, 32); err == nil {
			f.Code = int32(n)
		}
	}
}

// re is a pattern that is compiled when a line first needs it: on most nodes few
// ever are.
func re(pattern string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(pattern) })
}

func gpuRules() []rule {
	return []rule{
		{
			kind: commonv1.FaultKind_FAULT_KIND_XID, hint: "Xid",
			// "PCI:" came with driver 270; pid and name with 450.
			pattern: re(`^NVRM: Xid \((?:PCI:)?(?P<device>[0-9a-fA-F:.]+)\): (?P<code>\d+),(?: pid=(?:'?(?P<pid>\d+)'?|'<unknown>'|<unknown>),)?(?: name=(?:'?(?P<process>[^,']+)'?),)?`),
			finish: func(f *commonv1.NodeFault, _ string) {
				if f.Process == "<unknown>" {
					f.Process = ""
				}
				known := xid.Lookup(f.Code)
				f.Title, f.Advice, f.Severity = known.Title, known.Advice, known.Severity
				f.Device = xid.Device(f.Device)
			},
		},
		{
			kind: commonv1.FaultKind_FAULT_KIND_SXID, hint: "SXid",
			pattern: re(`^nvidia-nvswitch\d+: SXid \(PCI:(?P<device>[0-9a-fA-F:.]+)\): (?P<code>\d+),`),
			finish: func(f *commonv1.NodeFault, line string) {
				f.Title, f.Advice, f.Severity = sxid(f.Code, strings.Contains(line, ", Fatal,"))
				f.Device = xid.Device(f.Device)
			},
		},
	}
}

func memoryRules() []rule {
	const edac = "Find the module in the message. Corrected errors that repeat announce uncorrected ones: have it replaced at the next maintenance."
	const mce = "Read the decoded error with rasdaemon or mcelog; have the processor, memory or board that it names replaced."
	return []rule{
		{
			kind: commonv1.FaultKind_FAULT_KIND_OOM_KILL, hint: "Killed process", severity: warning,
			pattern: re(`[Kk]illed process (?P<pid>\d+) \((?P<process>.*?)\)(?:[ ,]|$)`),
			title:   "Out of memory: the kernel killed a process",
			advice:  "See what grew: data loader workers, caches, a leak. Give the job more memory, or fewer and smaller workers.",
			finish: func(f *commonv1.NodeFault, line string) {
				if strings.HasPrefix(line, "Memory cgroup out of memory") {
					f.Title = "A job's memory limit was reached: the kernel killed a process"
					f.Advice = "Raise the job's memory limit, or have it use less: fewer data loader workers, smaller caches."
				}
			},
		},
		{
			kind: commonv1.FaultKind_FAULT_KIND_MEMORY_ERROR, hint: "EDAC ", severity: critical,
			pattern: re(`^EDAC (?P<device>\w+): \d+ UE `),
			title:   "Memory error that could not be corrected",
			advice:  "Take the node out of service and have the memory module in the message replaced: what was computed with it cannot be trusted.",
		},
		{
			kind: commonv1.FaultKind_FAULT_KIND_MEMORY_ERROR, hint: "EDAC ", severity: info,
			pattern: re(`^EDAC (?P<device>\w+): \d+ CE `), title: "Memory error that was corrected", advice: edac,
		},
		{
			kind: commonv1.FaultKind_FAULT_KIND_MEMORY_ERROR, hint: "Memory failure: 0x", severity: critical,
			pattern: re(`^Memory failure: 0x`), title: "A page of memory was taken out of use because it is broken",
			advice: "Have the memory checked; a process that used the page was killed or has lost data.",
		},
		{
			kind: commonv1.FaultKind_FAULT_KIND_MACHINE_CHECK, hint: "Machine Check", severity: critical,
			pattern: re(`(?:^mce: )?\[Hardware Error\]: CPU (?P<device>\d+): Machine Check(?: Exception)?: `),
			title:   "Machine check", advice: mce, finish: cpuDevice,
		},
		{
			kind: commonv1.FaultKind_FAULT_KIND_MACHINE_CHECK, hint: "Machine check events logged", severity: warning,
			pattern: re(`\[Hardware Error\]: Machine check events logged`), title: "Machine check that was corrected", advice: mce,
		},
		{
			kind: commonv1.FaultKind_FAULT_KIND_MACHINE_CHECK, hint: "[Hardware Error]", severity: warning,
			pattern: re(`\[Hardware Error\]: (?:Hardware error from APEI|event severity: (?:fatal|recoverable))`),
			title:   "The firmware reports a hardware error", advice: mce,
		},
	}
}

func cpuDevice(f *commonv1.NodeFault, _ string) { f.Device = "cpu" + f.Device }

func taskRules() []rule {
	const hung = "See what it waits for (its stack is in the kernel log): a file system of another machine, a disk or a driver that does not answer."
	return []rule{
		{
			kind: commonv1.FaultKind_FAULT_KIND_HUNG_TASK, hint: "blocked for more than", severity: warning,
			pattern: re(`^INFO: task (?P<process>.+):(?P<pid>\d+) blocked for more than \d+ seconds`),
			title:   "A task hangs in the kernel", advice: hung,
		},
		{
			kind: commonv1.FaultKind_FAULT_KIND_HUNG_TASK, hint: "soft lockup", severity: critical,
			pattern: re(`BUG: soft lockup - CPU#(?P<device>\d+) stuck for \d+s! \[(?P<process>.+):(?P<pid>\d+)\]`),
			title:   "A CPU is stuck in the kernel",
			advice:  "Look for a driver in the stack behind the message; restart the machine when it repeats.", finish: cpuDevice,
		},
		{
			kind: commonv1.FaultKind_FAULT_KIND_HUNG_TASK, hint: "hard LOCKUP", severity: critical,
			pattern: re(`Watchdog detected hard LOCKUP on cpu (?P<device>\d+)`), title: "A CPU does not even take interrupts",
			advice: "Restart the machine; have it checked when it repeats.", finish: cpuDevice,
		},
		{
			kind: commonv1.FaultKind_FAULT_KIND_HUNG_TASK, hint: "detected stall", severity: warning,
			pattern: re(`^rcu: INFO: rcu_\w+ (?:self-)?detected stalls? on CPU`), title: "A CPU has not let the kernel go on for long",
			advice: "Look for a driver in the stacks behind the message, or for a host that gives this machine no CPU time.",
		},
	}
}
