package kernel

import (
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]record{
		"6,339,5140900,-;NET: Registered PF_INET":           {339, 5140900, "NET: Registered PF_INET"},
		"4,8,64000000,-,caller=T77;text; with a semicolon":  {8, 64000000, "text; with a semicolon"},
		`6,7,63,c;colour \x1b[31m and \xff and \xZZ and \x`: {7, 63, "colour \x1b[31m and \ufffd and \\xZZ and \\x"},
		"12,9,64,-;a program wrote this":                    {9, 64, ""},
		"6,10,65,-;":                                        {10, 65, ""},
	} {
		if got, ok := parse([]byte(in)); got != want || !ok {
			t.Errorf("%q: %+v, %v", in, got, ok)
		}
	}
	for _, in := range []string{"", ";", " SUBSYSTEM=pci", " a,1,2,3;x", "6;x", "6,1;x", "6,1,2;x", "x,1,2,-;x", "6,-1,2,-;x", "6,1,,-;x"} {
		if got, ok := parse([]byte(in)); ok {
			t.Errorf("%q: %+v", in, got)
		}
	}
	if got, _ := parse([]byte("6,1,2,-;" + strings.Repeat("x", 3*maxText))); len(got.text) != maxText {
		t.Errorf("a text of %d bytes", len(got.text))
	}
}

func TestCutKeepsCharactersWhole(t *testing.T) {
	for size, want := range map[int]string{10: "aé€", 6: "aé€", 5: "aé", 3: "aé", 2: "a", 0: ""} {
		if got := cut("aé€", size); got != want {
			t.Errorf("%d bytes: %q, want %q", size, got, want)
		}
	}
}

// FuzzLog reads anything as a log: it must end, and what it finds must fit into
// a message.
func FuzzLog(f *testing.F) {
	for line := range lines() {
		f.Add([]byte("4,1,2,-;" + line))
	}
	f.Add([]byte("4,1,2,-;oom-kill:constraint=C,nodemask=(null),task_memcg=/a/../..,task=x,pid=1,uid=0\n4,2,3,-;Killed process 1 (x) "))
	words := newInterpreter()
	f.Fuzz(func(t *testing.T, data []byte) {
		who := newVictims("testdata/proc", func() []collect.Trainer { return nil })
		who.groups["/a"] = "run"
		for line := range strings.Lines(string(data)) {
			r, ok := parse([]byte(strings.TrimSuffix(line, "\n")))
			if !ok {
				continue
			}
			who.listen(r.text)
			fault := words.fault(r.text)
			if fault == nil {
				continue
			}
			who.name(fault)
			for _, text := range []string{fault.Message, fault.Device, fault.Process} {
				if !utf8.ValidString(text) || len(text) > maxText {
					t.Errorf("%q is no text of a message", text)
				}
			}
			if len(fault.Message) > maxMessage || fault.Title == "" || fault.Severity == commonv1.FaultSeverity_FAULT_SEVERITY_UNSPECIFIED {
				t.Errorf("%q: %v", r.text, fault)
			}
		}
	})
}

func TestLogOfThisMachine(t *testing.T) {
	f, err := os.Open("/dev/kmsg")
	if err != nil {
		t.Skipf("the log is not for this user to read: %v", err)
	}
	_ = f.Close()
	m := newMachine(t)
	m.config.Log = "/dev/kmsg"
	if got := m.collect(m.start()); got["records_total"] == 0 {
		t.Errorf("nothing was read: %v", got)
	}
}

func BenchmarkJudge(b *testing.B) {
	words := newInterpreter()
	for name, text := range map[string]string{
		"of no interest": "EXT4-fs (vda): mounted filesystem 00000000-0000-0000-0000-000000000000 r/w without journal. Quota mode: none.",
		"xid":            xid79,
	} {
		line := []byte("4,8,64000000,-;" + text)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r, _ := parse(line)
				words.fault(r.text)
			}
		})
	}
}

func BenchmarkCollect(b *testing.B) {
	c, err := New(Config{Log: "/dev/kmsg", Proc: "/proc"}, collect.Deps{
		Log: testkit.Logger(b), StateDir: b.TempDir(), Trainers: func() []collect.Trainer { return nil },
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Collect(b.Context(), func(metric.Sample) {}); err != nil {
			b.Fatal(err)
		}
	}
	_ = c.(*collector).Close()
}
