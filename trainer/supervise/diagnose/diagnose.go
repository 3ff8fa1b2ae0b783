// Package diagnose says what ended a training process: pure code that makes one
// of the closed list of failure kinds out of evidence, and says which evidence
// it was.
//
// What is nearer to the cause counts more: what the supervisor itself did, then
// the process' own word where it names a cause, then the kernel's (a control
// group's memory events, the node's faults), then known words in the output,
// then exit code and signal. A rank that lost its peer says "NCCL error" and the peer
// "out of memory": of what the output says, causes count more than symptoms.
package diagnose

import (
	"fmt"
	"strings"
	"syscall"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// Act is what a supervisor did to end a process.
type Act struct {
	// Failure is why: a limit, a hang, a preemption; unspecified: it did not.
	Failure commonv1.FailureKind
	Why     string // one sentence
}

// Said is what the process left for its supervisor.
type Said struct {
	Failure     commonv1.FailureKind
	Explanation string // one sentence
}

// Evidence is what is known of an end. Its zero value is an exit with 0.
type Evidence struct {
	ExitCode int            // meaningless when Signal is not 0
	Signal   syscall.Signal // 0: it exited by itself
	Act      Act
	Said     *Said // nil: nothing
	// OOMKills is by how much oom_kill of the control group's memory.events grew.
	OOMKills int64
	// Faults is what the node says broke meanwhile, as far as it can concern the
	// run.
	Faults []*commonv1.NodeFault
	// Signs is what was met in the output, in order.
	Signs []Match
	// Traceback is the last exception of Python in the output; nil: none.
	Traceback *Traceback
	// Step is the last step that finished; StepKnown tells whether it is known.
	Step      int64
	StepKnown bool
}

// Conclusion is what an end means.
type Conclusion struct {
	Failure     commonv1.FailureKind // unspecified: no failure, or none that is named
	Explanation string               // one sentence
	// Evidence is what it rests on and what else there was, the first first.
	Evidence []string
	// Fingerprint is the same for the same exception at the same place; empty
	// when there was none.
	Fingerprint string
}

// candidate is one reading of the evidence.
type candidate struct {
	failure     commonv1.FailureKind
	explanation string
	evidence    string
}

// Diagnose concludes. It is a pure function.
func Diagnose(e Evidence) Conclusion {
	var found []candidate
	for _, look := range []func(Evidence) []candidate{ofAct, ofSaidStrongly, ofKernel, ofSigns, ofSaid, ofExit} {
		found = append(found, look(e)...)
	}
	var c Conclusion
	for i, one := range found {
		if i == 0 {
			c.Failure, c.Explanation = one.failure, one.explanation
		}
		c.add(one.evidence)
	}
	c.add(ofEnd(e))
	if e.Traceback != nil {
		c.Fingerprint = e.Traceback.Fingerprint()
		c.add("traceback: " + e.Traceback.String())
	}
	return c
}

// add adds evidence that is not there yet.
func (c *Conclusion) add(text string) {
	if text == "" {
		return
	}
	for _, have := range c.Evidence {
		if have == text {
			return
		}
	}
	c.Evidence = append(c.Evidence, text)
}

// ofEnd is how the process ended, in words.
func ofEnd(e Evidence) string {
	if e.Signal != 0 {
		return "ended by " + SignalName(e.Signal)
	}
	return fmt.Sprintf("exit code %d", e.ExitCode)
}

func ofAct(e Evidence) []candidate {
	if e.Act.Failure == 0 {
		return nil
	}
	return []candidate{{e.Act.Failure, e.Act.Why, "the supervisor ended it: " + e.Act.Why}}
}

// ofSaidStrongly is a word of the process that names its failure: an order that
// it carried out, or a value that it met.
func ofSaidStrongly(e Evidence) []candidate {
	if e.Said == nil || weak(e.Said.Failure) {
		return nil
	}
	return []candidate{said(e.Said)}
}

func ofSaid(e Evidence) []candidate {
	if e.Said == nil || !weak(e.Said.Failure) {
		return nil
	}
	return []candidate{said(e.Said)}
}

func said(s *Said) candidate {
	return candidate{s.Failure, s.Explanation, "the process says: " + s.Explanation}
}

// weak tells whether a kind says that a process failed and not why. That none is
// named is a strong word: it ended in good order.
func weak(kind commonv1.FailureKind) bool {
	return kind == commonv1.FailureKind_FAILURE_KIND_CRASH || kind == commonv1.FailureKind_FAILURE_KIND_KILLED
}

// ofKernel is what the kernel says. A process that ended well in spite of it has
// not failed; that is not asked here.
func ofKernel(e Evidence) []candidate {
	var found []candidate
	if e.OOMKills > 0 {
		found = append(found, candidate{
			commonv1.FailureKind_FAILURE_KIND_HOST_OOM,
			fmt.Sprintf("the kernel killed %d of its processes because the control group's memory ran out", e.OOMKills),
			fmt.Sprintf("memory.events: oom_kill grew by %d", e.OOMKills),
		})
	}
	for _, f := range e.Faults {
		kind := ofFault(f)
		if kind == 0 {
			continue
		}
		where := f.GetDevice()
		if f.Gpu != nil {
			where = fmt.Sprintf("GPU %d", f.GetGpu())
		}
		text := strings.TrimSpace(fmt.Sprintf("%s %s", f.GetTitle(), where))
		found = append(found, candidate{kind, "the node says: " + text, fmt.Sprintf("kernel log: %s (%s)", text, clip(f.GetMessage(), 160))})
	}
	return found
}

// ofFault is the failure that a fault of the node leads to; 0: none by itself.
func ofFault(f *commonv1.NodeFault) commonv1.FailureKind {
	critical := f.GetSeverity() == commonv1.FaultSeverity_FAULT_SEVERITY_CRITICAL
	switch f.GetKind() {
	case commonv1.FaultKind_FAULT_KIND_OOM_KILL:
		return commonv1.FailureKind_FAILURE_KIND_HOST_OOM
	case commonv1.FaultKind_FAULT_KIND_XID, commonv1.FaultKind_FAULT_KIND_SXID, commonv1.FaultKind_FAULT_KIND_DEVICE_STUCK:
		if critical {
			return commonv1.FailureKind_FAILURE_KIND_GPU_FAULT
		}
	case commonv1.FaultKind_FAULT_KIND_NETWORK:
		if critical {
			return commonv1.FailureKind_FAILURE_KIND_NETWORK
		}
	}
	return 0
}

// ofSigns is what the output says: of the signs those nearest to a cause, and of
// these the first.
func ofSigns(e Evidence) []candidate {
	var found []candidate
	for weight := Cause; weight >= Symptom; weight-- {
		for _, m := range e.Signs {
			if m.Sign.Weight == weight {
				found = append(found, candidate{m.Sign.Kind, m.Sign.Says,
					fmt.Sprintf("output line %d: %q (%s)", m.Line, m.Text, m.Sign.Says)})
			}
		}
	}
	return found
}

// clip bounds a text.
func clip(text string, most int) string {
	text = strings.ToValidUTF8(strings.TrimSpace(text), "\uFFFD")
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}
