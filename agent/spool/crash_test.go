package spool

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
	"github.com/vigil-ml/vigil/internal/testkit/faultfs"
)

const childDir = "VIGIL_SPOOL_CHILD"

// appendForever is the child process: it says each position once Append has
// returned it.
func appendForever(dir string) {
	s, err := Open(small(dir), Deps{Clock: epochsFrom1})
	if err != nil {
		fmt.Println(err)
		return
	}
	for i := 1; ; i++ {
		if _, err := s.Append([]byte(numbered(i, i)[0])); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(i)
	}
}

func TestKilledProcessLosesNothingThatWasAppended(t *testing.T) {
	dir := t.TempDir()
	config := small(dir)
	for round := range 3 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		said := 0
		for lines.Scan() {
			if _, err := fmt.Sscan(lines.Text(), &said); err != nil {
				t.Fatalf("the child says %q", lines.Text())
			}
			if said == 40 {
				_ = cmd.Process.Signal(syscall.SIGKILL)
			}
		}
		_ = cmd.Wait()
		s := open(t, config, Deps{})
		got, _ := readAll(t, s, s.Acknowledged())
		if len(got) < said || len(got) > said+1 {
			t.Fatalf("round %d: the child appended %d records, %d are there", round, said, len(got))
		}
		if diff := cmp.Diff(numbered(1, len(got)), got); diff != "" {
			t.Errorf("payloads (-want +got):\n%s", diff)
		}
		_, positions := readAll(t, s, Position{})
		if err := s.Acknowledge(slices.MaxFunc(positions, Position.Compare)); err != nil {
			t.Fatal(err)
		}
		_ = s.Close()
	}
}

func TestDamageIsSkippedAndCounted(t *testing.T) {
	for _, tc := range []struct {
		name    string
		damage  func(data []byte) []byte
		missing []int // of records 1 to 10
	}{
		{"torn last record", func(d []byte) []byte { return d[:len(d)-3] }, []int{10}},
		{"torn header", func(d []byte) []byte { return d[:len(d)-50] }, []int{10}},
		{"flipped payload", func(d []byte) []byte { d[25] ^= 1; return d }, []int{1}},
		{"flipped in the middle", func(d []byte) []byte { d[len(d)/2] ^= 0x80; return d }, []int{6}},
		{"rubbish at the end", func(d []byte) []byte { return append(d, "rubbish"...) }, nil},
		{"nothing left", func(d []byte) []byte { return []byte("x") }, []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			config := small(t.TempDir())
			s := open(t, config, Deps{})
			mustAppend(t, s, numbered(1, 10)...)
			_ = s.Close()
			path := segmentFiles(t, config.Dir)[0]
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, tc.damage(data), 0o600); err != nil {
				t.Fatal(err)
			}
			s = open(t, config, Deps{})
			mustAppend(t, s, "after")
			want := slices.DeleteFunc(numbered(1, 10), func(p string) bool {
				return slices.ContainsFunc(tc.missing, func(i int) bool { return p == numbered(i, i)[0] })
			})
			wantPayloads(t, s, Position{}, append(want, "after"))
			wantPayloads(t, s, Position{}, append(want, "after"))
			if got := s.Stats().Skipped; got != 1 {
				t.Errorf("skipped %d, want 1, however often it is read", got)
			}
		})
	}
}

func TestDamageUnderAnOpenSpool(t *testing.T) {
	config := small(t.TempDir())
	s := open(t, config, Deps{})
	mustAppend(t, s, numbered(1, 3)...)
	f, err := os.OpenFile(segmentFiles(t, config.Dir)[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xff}, 30); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	wantPayloads(t, s, Position{}, numbered(2, 3))
	mustAppend(t, s, numbered(4, 4)...)
	wantPayloads(t, s, Position{}, numbered(2, 4))
	if got := s.Stats().Skipped; got != 1 {
		t.Errorf("skipped %d, want 1", got)
	}
}

func TestDamagedStateMeansARepeatAndNoLoss(t *testing.T) {
	config := small(t.TempDir())
	s := open(t, config, Deps{})
	last := mustAppend(t, s, numbered(1, 30)...)
	if err := s.Acknowledge(Position{1, 29}); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	if err := os.WriteFile(statePath(config.Dir), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, config, Deps{})
	if next := mustAppend(t, s, "next"); next.Compare(last) <= 0 {
		t.Errorf("position %v does not stand behind %v", next, last)
	}
	got, _ := readAll(t, s, s.Acknowledged())
	if want := append(numbered(30, 30), "next"); !cmp.Equal(got[len(got)-2:], want) {
		t.Errorf("the last records are %q, want %q", got, want)
	}
}

func TestDiskFull(t *testing.T) {
	for _, tc := range []struct {
		name string
		fail func(op faultfs.Op, path string) error
	}{
		{"write", only(faultfs.Write)},
		{"fsync", only(faultfs.Sync)},
		{"new segment", func(op faultfs.Op, path string) error {
			if op == faultfs.Open && filepath.Ext(path) == ".seg" {
				return syscall.ENOSPC
			}
			return nil
		}},
		{"directory", only(faultfs.SyncDir)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			disk := faultfs.New()
			s := open(t, small(t.TempDir()), Deps{FS: disk})
			disk.FailWith(tc.fail)
			if _, err := s.Append([]byte("lost")); !fault.Is(err, fault.Exhausted) || fault.HintOf(err) == "" ||
				!strings.Contains(err.Error(), "the agent's disk is full at "+s.config.Dir) {
				t.Errorf("Append = %v, want an exhausted fault with a hint that names the disk", err)
			}
			disk.FailWith(nil)
			if tc.name != "fsync" { // what was written but not synced may be read
				wantPayloads(t, s, Position{}, nil)
			}
			_, _ = s.Append([]byte("after a failed fsync the file's next one fails too"))
			mustAppend(t, s, "kept")
			got, _ := readAll(t, s, Position{})
			if got[len(got)-1] != "kept" || s.Stats().Skipped != 0 {
				t.Errorf("read %q, stats %+v", got, s.Stats())
			}
		})
	}
}

func only(op faultfs.Op) func(faultfs.Op, string) error {
	return func(o faultfs.Op, _ string) error {
		if o == op {
			return syscall.ENOSPC
		}
		return nil
	}
}

func TestFailedWriteLeavesNoTornRecord(t *testing.T) {
	disk := faultfs.New()
	config := small(t.TempDir())
	s := open(t, config, Deps{FS: disk})
	mustAppend(t, s, numbered(1, 3)...)
	disk.FailWith(only(faultfs.Write))
	if _, err := s.Append([]byte("half of this reaches the disk")); err == nil {
		t.Fatal("the write did not fail")
	}
	disk.FailWith(nil)
	mustAppend(t, s, numbered(4, 5)...)
	wantPayloads(t, s, Position{}, numbered(1, 5))
	_ = s.Close()
	s = open(t, config, Deps{})
	wantPayloads(t, s, Position{}, numbered(1, 5))
	if got := s.Stats().Skipped; got != 0 {
		t.Errorf("skipped %d, want 0", got)
	}
}

func TestFsyncBeforeAppendReturns(t *testing.T) {
	disk := faultfs.New()
	s := open(t, small(t.TempDir()), Deps{FS: disk})
	mustAppend(t, s, "first")
	before := len(disk.Log())
	mustAppend(t, s, "second")
	var ops []string
	for _, line := range disk.Log()[before:] {
		op, _, _ := cutOp(line)
		ops = append(ops, op)
	}
	if diff := cmp.Diff([]string{"write", "sync"}, ops); diff != "" {
		t.Errorf("operations (-want +got):\n%s", diff)
	}
}

func cutOp(line string) (op, path string, ok bool) {
	n, _ := fmt.Sscan(line, &op, &path)
	return op, path, n == 2
}

func TestRunSyncsByIntervalAndWritesTheMark(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		disk := faultfs.New()
		config := small(dir)
		config.SyncInterval = 100 * time.Millisecond
		s := open(t, config, Deps{FS: disk})
		stopped := make(chan error)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { stopped <- s.Run(ctx) }()
		mustAppend(t, s, numbered(1, 3)...)
		if n := syncs(disk, ".seg"); n != 0 {
			t.Errorf("%d fsyncs before the interval", n)
		}
		time.Sleep(150 * time.Millisecond)
		if n := syncs(disk, ".seg"); n != 1 {
			t.Errorf("%d fsyncs after the interval, want 1", n)
		}
		if err := s.Acknowledge(Position{1, 2}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * markInterval)
		if st, _, err := readState(dir); err != nil || st.acknowledged != (Position{1, 2}) {
			t.Errorf("mark on disk %v, %v", st.acknowledged, err)
		}
		if n := syncs(disk, ".seg"); n != 1 {
			t.Errorf("%d fsyncs although nothing was appended, want 1", n)
		}
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

func syncs(disk *faultfs.FS, ext string) (n int) {
	for _, line := range disk.Log() {
		if op, path, _ := cutOp(line); op == "sync" && filepath.Ext(path) == ext {
			n++
		}
	}
	return n
}

func TestWritersAndReadersAtOnce(t *testing.T) {
	const writers, each, readers = 4, 100, 2
	config := Defaults(t.TempDir())
	config.SegmentBytes = 4 << 10
	s := open(t, config, Deps{})
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for i := range each {
				if _, err := s.Append(fmt.Appendf(nil, "%d-%d", w, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range readers {
		group.Go(func() {
			r := s.Follow(Position{})
			defer func() { _ = r.Close() }()
			seen := make([]int, writers)
			for n := range uint64(writers * each) {
				record, err := r.Next(t.Context())
				var w, i int
				_, scanErr := fmt.Sscanf(string(record.Payload), "%d-%d", &w, &i)
				if err := errors.Join(err, scanErr); err != nil {
					t.Error(err)
					return
				}
				if record.Position.Sequence != n+1 || i != seen[w] {
					t.Errorf("record %d is %v %q, want the writer's number %d", n, record.Position, record.Payload, seen[w])
				}
				seen[w]++
			}
		})
	}
	group.Wait()
	if got := s.Stats().Skipped; got != 0 {
		t.Errorf("skipped %d", got)
	}
}

// unsynced is the machine's file system without its fsyncs, which take nearly
// all the time of a test that asks for nothing of them.
type unsynced struct{ durable.OS }

func (u unsynced) OpenFile(path string, flag int, perm os.FileMode) (durable.File, error) {
	f, err := u.OS.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	return unsyncedFile{f}, nil
}

func (unsynced) SyncDir(string) error { return nil }

type unsyncedFile struct{ durable.File }

func (unsyncedFile) Sync() error { return nil }

func FuzzSegment(f *testing.F) {
	dir := f.TempDir()
	s := open(f, small(dir), Deps{})
	mustAppend(f, s, numbered(1, 5)...)
	_ = s.Close()
	whole, err := os.ReadFile(segmentFiles(f, dir)[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-7])
	f.Add([]byte("VGR1"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		config := small(t.TempDir())
		g := newSegment(config.Dir, 3, 7)
		if err := os.WriteFile(g.path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, config, Deps{Log: testkit.Logger(t), FS: unsynced{}})
		last := mustAppend(t, s, "after")
		payloads, positions := readAll(t, s, Position{})
		if payloads[len(payloads)-1] != "after" || positions[len(positions)-1] != last {
			t.Errorf("the last record is %q at %v", payloads[len(payloads)-1], positions[len(positions)-1])
		}
		for i := 1; i < len(positions); i++ {
			if positions[i].Compare(positions[i-1]) <= 0 {
				t.Errorf("positions %v do not grow", positions)
			}
		}
		if s.Stats().Frames < int64(len(payloads)) {
			t.Errorf("stats %+v, but %d records were read", s.Stats(), len(payloads))
		}
		if err := s.Acknowledge(last); err != nil {
			t.Error(err)
		}
		if s.Stats().Frames != 0 {
			t.Errorf("stats %+v after everything was acknowledged", s.Stats())
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	payload := make([]byte, 300)
	for name, interval := range map[string]time.Duration{"durable": 0, "interval": time.Second} {
		b.Run(name, func(b *testing.B) {
			config := Defaults(b.TempDir())
			config.SyncInterval = interval
			s := open(b, config, Deps{})
			b.SetBytes(int64(len(payload)))
			for b.Loop() {
				if _, err := s.Append(payload); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("durable, eight at once", func(b *testing.B) {
		s := open(b, Defaults(b.TempDir()), Deps{})
		b.SetBytes(int64(len(payload)))
		b.SetParallelism(4)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := s.Append(payload); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
}
