package diagnose

import (
	"strings"
	"syscall"
	"testing"

	"google.golang.org/protobuf/proto"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// output makes evidence of what a process printed.
func output(e Evidence, lines ...string) Evidence {
	r := NewReader()
	_, _ = r.Write([]byte(strings.Join(lines, "\n")))
	e.Signs, e.Traceback = r.Found()
	return e
}

func xid(code int32, severity commonv1.FaultSeverity) *commonv1.NodeFault {
	return &commonv1.NodeFault{
		Kind: commonv1.FaultKind_FAULT_KIND_XID, Code: code, Severity: severity, Title: "GPU has fallen off the bus",
		Gpu: proto.Uint32(3), Message: "NVRM: Xid (PCI:0000:3b:00): 79",
	}
}

const (
	severe = commonv1.FaultSeverity_FAULT_SEVERITY_CRITICAL
	slight = commonv1.FaultSeverity_FAULT_SEVERITY_INFO
)

func TestDiagnose(t *testing.T) {
	failed := Evidence{ExitCode: 1}
	traceback := []string{
		"Traceback (most recent call last):", `  File "/home/u/train.py", line 12, in <module>`, "    main()",
		`  File "/home/u/train.py", line 7, in main`, "    x[9]", "IndexError: list index out of range",
	}
	for name, c := range map[string]struct {
		evidence Evidence
		failure  commonv1.FailureKind
		why      string // in the explanation
		also     string // in the evidence
	}{
		"well":                         {Evidence{}, 0, "ended well", "exit code 0"},
		"a bare exit code":             {failed, crash, "exit code 1", "exit code 1"},
		"asked to be restarted":        {Evidence{ExitCode: 75}, 0, "without a reason", "exit code 75"},
		"Megatron wants a rerun":       {Evidence{ExitCode: 16}, gpuFault, "rerun check wants", "exit code 16"},
		"Megatron found a bad GPU":     {Evidence{ExitCode: 17}, gpuFault, "wrong results", "exit code 17"},
		"NVRx says do not requeue":     {Evidence{ExitCode: 93}, userError, "not to be started again", "exit code 93"},
		"timeout(1)":                   {Evidence{ExitCode: 124}, limit, "time limit", ""},
		"no such program in a script":  {Evidence{ExitCode: 127}, userError, "not there", ""},
		"a shell that saw SIGKILL":     {Evidence{ExitCode: 137}, killed, "SIGKILL", "exit code 137"},
		"SIGKILL":                      {Evidence{Signal: syscall.SIGKILL}, killed, "nobody said why", "ended by SIGKILL"},
		"SIGSEGV":                      {Evidence{Signal: syscall.SIGSEGV}, crash, "crashed with SIGSEGV", ""},
		"SIGTERM of somebody else":     {Evidence{Signal: syscall.SIGTERM}, preempted, "somebody else", ""},
		"SIGXCPU":                      {Evidence{Signal: syscall.SIGXCPU}, limit, "resource limit", ""},
		"the kernel's OOM killer":      {Evidence{Signal: syscall.SIGKILL, OOMKills: 2}, hostOOM, "2 of its processes", "oom_kill grew by 2"},
		"a worker was killed":          {output(Evidence{ExitCode: 1, OOMKills: 1}, "NCCL error in: x"), hostOOM, "control group", "NCCL"},
		"a critical XID":               {Evidence{ExitCode: 1, Faults: []*commonv1.NodeFault{xid(79, severe)}}, gpuFault, "fallen off the bus GPU 3", "NVRM: Xid"},
		"an XID of the program's own":  {Evidence{ExitCode: 1, Faults: []*commonv1.NodeFault{xid(13, slight)}}, crash, "exit code 1", ""},
		"cause before symptom":         {output(failed, "NCCL error in: a.cpp", "torch.OutOfMemoryError: CUDA out of memory."), gpuOOM, "CUDA out of memory", "line 1"},
		"the first of two causes":      {output(failed, "No space left on device", "CUDA out of memory"), diskFull, "no space", "CUDA out of memory"},
		"a traceback alone":            {output(failed, traceback...), crash, "IndexError: list index out of range at train.py:7 main", "traceback: IndexError"},
		"the supervisor's own doing":   {Evidence{Signal: syscall.SIGKILL, Act: Act{limit, "24h of training are over"}}, limit, "24h", "the supervisor ended it"},
		"a word of the process":        {output(Evidence{ExitCode: 75, Said: &Said{nonfinite, "step 8: NaN"}}, "CUDA out of memory"), nonfinite, "step 8", "CUDA"},
		"a weak word of the process":   {output(Evidence{ExitCode: 75, Said: &Said{crash, "it failed"}}, "CUDA out of memory"), gpuOOM, "CUDA", "it failed"},
		"it ended in good order":       {output(Evidence{ExitCode: 75, Said: &Said{0, "told to save"}}, "CUDA out of memory"), 0, "told to save", "CUDA"},
		"the kernel before weak words": {Evidence{ExitCode: 75, OOMKills: 1, Said: &Said{crash, "it failed"}}, hostOOM, "control group", "it failed"},
	} {
		t.Run(name, func(t *testing.T) {
			got := Diagnose(c.evidence)
			if got.Failure != c.failure || !strings.Contains(got.Explanation, c.why) {
				t.Errorf("got %v, %q; want %v, %q", got.Failure, got.Explanation, c.failure, c.why)
			}
			if !strings.Contains(strings.Join(got.Evidence, "\n"), c.also) || len(got.Evidence) == 0 {
				t.Errorf("evidence is %q; want %q among it", got.Evidence, c.also)
			}
		})
	}
}

func TestTracebacks(t *testing.T) {
	text := `[rank1]: Traceback (most recent call last):
[rank1]:   File "/a/train.py", line 40, in <module>
[rank1]:     main()
[rank1]:   File "/a/model/net.py", line 7, in forward
[rank1]:     return x @ w
[rank1]: RuntimeError: mat1 and mat2 shapes cannot be multiplied (64x128 and 96x64)
E1128 12:00:00 torch/distributed/elastic/multiprocessing/api.py:869] failed (exitcode: 1) local_rank: 1
Traceback (most recent call last):
  File "/usr/bin/torchrun", line 8, in <module>
    sys.exit(main())
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
`
	all := Tracebacks(text)
	if len(all) != 2 {
		t.Fatalf("%d tracebacks", len(all))
	}
	got := Last(all)
	if got.Type != "RuntimeError" || strings.Join(got.Frames, ", ") != "train.py:40 <module>, net.py:7 forward" {
		t.Errorf("got %+v", got)
	}
	other := *got
	other.Message = "mat1 and mat2 shapes cannot be multiplied (32x128 and 96x64)"
	if got.Fingerprint() != other.Fingerprint() {
		t.Error("numbers in the message make another fingerprint")
	}
	other.Frames = []string{"train.py:41 <module>", "net.py:7 forward"}
	if got.Fingerprint() == other.Fingerprint() {
		t.Error("another line has the same fingerprint")
	}
	if Last(Tracebacks("no trace of one")) != nil {
		t.Error("a traceback out of nothing")
	}
}

func FuzzReader(f *testing.F) {
	for _, example := range examples() {
		f.Add([]byte(example.line))
	}
	f.Add([]byte("Traceback (most recent call last):\n  File \"\xff\", line 1, in x\nE: \xfe\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r := NewReader()
		_, _ = r.Write(text)
		signs, traceback := r.Found()
		c := Diagnose(Evidence{ExitCode: 1, Signs: signs, Traceback: traceback})
		for _, line := range append(c.Evidence, c.Explanation) {
			if line != strings.ToValidUTF8(line, "") {
				t.Errorf("%q is not fit for a message", line)
			}
		}
	})
}
