package load

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vigil-ml/vigil/internal/fault"
)

func TestLevelsBeginAndEase(t *testing.T) {
	const limit = 1000
	level := Normal
	for _, step := range []struct {
		live, held uint64
		want       Level
	}{
		{live: 840, want: Normal},
		{live: 850, want: Short},
		{live: 810, want: Short}, // eased, but not enough
		{live: 940, want: Short},
		{live: 950, want: Critical},
		{live: 910, want: Critical},
		{live: 890, want: Short},
		{live: 790, want: Normal},
		{live: 840, want: Normal},
		{live: 300, held: 1101, want: Critical}, // garbage piles up
		{live: 300, held: 900, want: Normal},
	} {
		if level = next(level, Usage{Live: step.live, Held: step.held}, limit); level != step.want {
			t.Errorf("with %+v the level is %s, want %s", step, level, step.want)
		}
	}
	if got := next(Critical, Usage{Live: 1 << 40}, 0); got != Normal {
		t.Errorf("without a limit the level is %s", got)
	}
}

func TestWhatIsRefused(t *testing.T) {
	now, used := time.Unix(1000, 0), Usage{}
	g := New(1000, Deps{Metrics: prometheus.NewRegistry(), Clock: func() time.Time { return now }, Read: func() Usage { return used }})
	all := []Work{Sessions, Events, Samples, Queries, Calls}
	for _, step := range []struct {
		live    uint64
		refused []Work
	}{
		{live: 500},
		{live: 900, refused: []Work{Samples, Queries}},
		{live: 990, refused: all},
		{live: 100},
	} {
		used, now = Usage{Live: step.live}, now.Add(time.Second)
		refused := map[Work]bool{}
		for _, w := range step.refused {
			refused[w] = true
		}
		for _, w := range all {
			err := g.Admit(w)
			if (err != nil) != refused[w] {
				t.Errorf("at %d of 1000: %s: %v", step.live, w, err)
			}
			if err != nil {
				checkRefusal(t, err)
			}
		}
		if err := g.Err(); (err != nil) != (step.live == 990) {
			t.Errorf("at %d of 1000: %v", step.live, err)
		}
	}
	if n := testutil.ToFloat64(g.refused.WithLabelValues("samples")); n != 2 {
		t.Errorf("%v refusals of samples are counted, want 2", n)
	}
	if (*Gauge)(nil).Admit(Samples) != nil {
		t.Error("no gauge refuses")
	}
}

// checkRefusal: every refusal says when to come again, in gRPC's words.
func checkRefusal(t *testing.T, err error) {
	t.Helper()
	if after, ok := fault.RetryAfterOf(err); !ok || after != comeAgain || fault.KindOf(err).HTTPStatus() != http.StatusTooManyRequests {
		t.Errorf("%v: come again after %v, %v", err, after, ok)
	}
	sent := status.Convert(fault.GRPC(err))
	for _, detail := range sent.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok && info.RetryDelay.AsDuration() == comeAgain && sent.Code() == codes.ResourceExhausted {
			return
		}
	}
	t.Errorf("gRPC is told %v %v", sent.Code(), sent.Details())
}

func TestAReadingHoldsForAWhile(t *testing.T) {
	now, reads := time.Unix(1000, 0), 0
	g := New(1000, Deps{Metrics: prometheus.NewRegistry(), Clock: func() time.Time { return now }, Read: func() Usage { reads++; return Usage{} }})
	for range 10 {
		g.Level()
	}
	if now = now.Add(readEvery); reads != 1 || g.Level() != Normal || reads != 2 {
		t.Errorf("%d readings", reads)
	}
}

func TestGroupLimit(t *testing.T) {
	for name, tc := range map[string]struct {
		files map[string]string
		want  uint64
	}{
		"none":    {want: 0},
		"no max":  {map[string]string{"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "max\n"}, 0},
		"its own": {map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "4096\n"}, 4096},
		"one above": {map[string]string{
			"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "4096\n", "sys/fs/cgroup/a/memory.max": "2048\n",
		}, 2048},
		"a container's": {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "8192\n"}, 8192},
		"version 1": {map[string]string{
			"proc/self/cgroup": "5:cpu:/x\n4:memory:/a\n", "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "1024\n",
		}, 1024},
		"version 1, none": {map[string]string{
			"proc/self/cgroup": "4:memory:/a\n", "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "9223372036854771712\n",
		}, 0},
	} {
		root := t.TempDir()
		for file, text := range tc.files {
			file = filepath.Join(root, file)
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := groupLimit(root); got != tc.want {
			t.Errorf("%s: %d, want %d", name, got, tc.want)
		}
	}
}

func TestTheRuntimesFigures(t *testing.T) {
	held := make([]byte, 64<<20)
	u := readRuntime()
	if u.Live > u.Held || u.Held < uint64(len(held)) {
		t.Errorf("read %+v", u)
	}
}

// What was in use at the worst moment does not refuse everybody for good: while
// all is refused nobody else has garbage collected.
func TestGarbageIsCollectedWhileAllIsRefused(t *testing.T) {
	now, used, collected := time.Unix(1000, 0), Usage{Live: 990}, 0
	g := New(1000, Deps{
		Metrics: prometheus.NewRegistry(), Clock: func() time.Time { return now }, Read: func() Usage { return used },
		Collect: func() {
			collected++
			now = now.Add(time.Second) // it takes its time
			if collected == 2 {
				used.Live = 100
			}
		},
	})
	for range 100 {
		now = now.Add(100 * time.Millisecond)
		if g.Level() != Critical {
			t.Fatal("990 of 1000 are not critical")
		}
	}
	if collected != 1 {
		t.Fatalf("collected %d times in ten seconds, each time for one; want once", collected)
	}
	now = now.Add(time.Second)
	g.Level()
	now = now.Add(readEvery)
	if collected != 2 || g.Level() != Normal {
		t.Errorf("collected %d times, the level is %s; want twice and normal", collected, g.Level())
	}
	now = now.Add(time.Minute)
	if g.Level(); collected != 2 {
		t.Error("collected with memory to spare")
	}
}
