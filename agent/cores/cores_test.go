package cores

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// machine is one of eight cores on which the agent takes what it is told to.
type machine struct {
	mu    sync.Mutex
	cores []int // as they were set
	frees int
	took  time.Duration
}

func govern(t *testing.T, body func(m *machine, g *Governor)) {
	synctest.Test(t, func(t *testing.T) {
		m := &machine{}
		g := &Governor{
			idle: 1, all: 8, log: slog.New(slog.DiscardHandler),
			set: func(cores int) {
				m.mu.Lock()
				defer m.mu.Unlock()
				m.cores = append(m.cores, cores)
			},
			free: func() {
				m.mu.Lock()
				defer m.mu.Unlock()
				m.frees++
			},
			used: func() time.Duration {
				m.mu.Lock()
				defer m.mu.Unlock()
				return m.took
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		stopped := make(chan error, 1)
		go func() { stopped <- g.Run(ctx) }()
		synctest.Wait()
		body(m, g)
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

// work lets the agent take a share of a core for some time.
func (m *machine) work(share float64, length time.Duration) {
	for range int(length / time.Second) {
		time.Sleep(time.Second)
		m.mu.Lock()
		m.took += time.Duration(share * float64(time.Second))
		m.mu.Unlock()
	}
	synctest.Wait()
}

// was gives how the cores were set, and how often memory was given back.
func (m *machine) was() (cores []int, frees int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.cores), m.frees
}

// differs tells how the cores were set otherwise than wanted.
func (m *machine) differs(want []int) string {
	cores, _ := m.was()
	return cmp.Diff(want, cores)
}

func TestCoresForACheckpointAndNoLonger(t *testing.T) {
	govern(t, func(m *machine, g *Governor) {
		m.work(0.01, time.Minute)
		if cores, frees := m.was(); cores != nil || frees != 1 {
			t.Errorf("cores set to %v, memory given back %d times; want it once, after the start", cores, frees)
		}
		g.Raise()
		g.Raise()
		if diff := m.differs([]int{8}); diff != "" {
			t.Error(diff)
		}
		m.work(3, time.Minute)
		if diff := m.differs([]int{8}); diff != "" {
			t.Errorf("in the middle of the work: %s", diff)
		}
		m.work(0.01, time.Minute)
		cores, frees := m.was()
		if diff := cmp.Diff([]int{8, 1}, cores); diff != "" || frees != 2 {
			t.Errorf("after it: memory given back %d times; %s", frees, diff)
		}
	})
}

func TestCoresForWorkThatNobodyAnnounced(t *testing.T) {
	govern(t, func(m *machine, _ *Governor) {
		m.work(0.4, time.Minute)
		if cores, _ := m.was(); cores != nil {
			t.Errorf("cores set to %v for less than half of one", cores)
		}
		m.work(0.9, time.Minute)
		m.work(0.3, time.Minute)
		if diff := m.differs([]int{8}); diff != "" {
			t.Error(diff)
		}
		m.work(0.1, time.Minute)
		if diff := m.differs([]int{8, 1}); diff != "" {
			t.Error(diff)
		}
	})
}

func TestTheUsersWordGoesFirst(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(before)
	log := slog.New(slog.DiscardHandler)
	for name, make := range map[string]func() *Governor{
		"idle: 0":        func() *Governor { return New(Config{}, log) },
		"more than all":  func() *Governor { return New(Config{Idle: before + 1}, log) },
		"in environment": func() *Governor { t.Setenv("GOMAXPROCS", "3"); return New(Defaults(), log) },
	} {
		g := make()
		g.Raise()
		if got := runtime.GOMAXPROCS(0); got != before {
			t.Errorf("%s: on %d cores, want %d", name, got, before)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := g.Run(ctx); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if cpuTime() <= 0 {
		t.Error("this program took no CPU time")
	}
}

const smaps = `00400000-01200000 r-xp 00000000 fe:00 1 /usr/bin/vigil-agent
Rss:               14336 kB
Anonymous:             0 kB
01200000-01a00000 r--p 00e00000 fe:00 1 /usr/bin/vigil-agent
Anonymous:             0 kB
01a00000-01a10000 r--p 01600000 fe:00 1 /usr/bin/vigil-agent
Anonymous:             8 kB
01a10000-01a90000 rw-p 01610000 fe:00 1 /usr/bin/vigil-agent
Anonymous:             0 kB
c000000000-c000400000 rw-p 00000000 00:00 0
Anonymous:          4096 kB
7f0000000000-7f0000001000 r--p 00000000 00:00 0
Anonymous:             0 kB
7f1000000000-7f1000100000 r-xp 00026000 fe:00 2 /usr/lib/a library.so
Anonymous:             0 kB
7f2000000000-7f2000100000 ---p 00026000 fe:00 2 /usr/lib/libc.so.6
Anonymous:             0 kB
7fff00000000-7fff00001000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
zz-zz r-xp 00000000 00:00 0 /x
Anonymous:             0 kB
`

func TestOnlyWhatIsAsInItsFileIsGivenBack(t *testing.T) {
	want := []mapping{{0x400000, 0x1200000}, {0x1200000, 0x1a00000}, {0x7f1000000000, 0x7f1000100000}}
	if diff := cmp.Diff(want, unchanged(strings.NewReader(smaps)), cmp.AllowUnexported(mapping{})); diff != "" {
		t.Errorf("(- want, + got):\n%s", diff)
	}
}

// resident is how much of a file that this program has mapped is in its memory,
// in kB.
func resident(t *testing.T, path string) int {
	t.Helper()
	data, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Skip(err)
	}
	_, rest, found := strings.Cut(string(data), path+"\n")
	_, rest, _ = strings.Cut(rest, "\nRss:")
	fields := strings.Fields(rest)
	if !found || len(fields) == 0 {
		t.Fatalf("%s is not mapped", path)
	}
	n, err := strconv.Atoi(fields[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestPagesOfFilesAreGivenBackAndComeAgain(t *testing.T) {
	path, text := filepath.Join(t.TempDir(), "library.so"), bytes.Repeat([]byte("code"), 64<<10)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	mapped, err := unix.Mmap(int(f.Fd()), 0, len(text), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(mapped) }()
	if !bytes.Equal(mapped, text) || resident(t, path) == 0 {
		t.Fatal("the file is not in memory")
	}
	giveBack()
	if kB := resident(t, path); kB != 0 {
		t.Errorf("%d kB are still there", kB)
	}
	if !bytes.Equal(mapped, text) {
		t.Error("what comes again is not what it was")
	}
}

func TestConfig(t *testing.T) {
	var keys []string
	Config{Idle: -1}.Check(func(key, _ string, _ ...any) { keys = append(keys, key) })
	Defaults().Check(func(key, _ string, _ ...any) { keys = append(keys, key) })
	if diff := cmp.Diff([]string{"idle"}, keys); diff != "" {
		t.Error(diff)
	}
}
