package bus

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// childEnv names the bus's directory to a test binary that is to publish until
// it is killed.
const childEnv = "VIGIL_TEST_BUS_DIR"

// publishUntilKilled goes on behind the last stored frame and says each
// acknowledged one on standard output.
func publishUntilKilled(dir string) {
	ctx := context.Background()
	b, err := Open(ctx, testConfig(dir), Deps{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		fmt.Println("open:", err)
		return
	}
	last, err := b.Last(ctx, "a")
	if err != nil {
		fmt.Println("last:", err)
		return
	}
	for i := last.Sequence + 1; ; i++ {
		if _, err := b.Publish(ctx, frame("a", "r", 1, i)); err != nil {
			fmt.Println("publish:", err)
			return
		}
		fmt.Println(i)
	}
}

func TestKillNineLosesNothingAcknowledged(t *testing.T) {
	dir := t.TempDir()
	var acknowledged uint64
	for round := range 3 {
		acknowledged = killWhilePublishing(t, dir, acknowledged, 100+50*round)
	}
	b := openBus(t, testConfig(dir))
	last, err := b.Last(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	// One more may be there: stored, but killed before it could be said.
	if last.Sequence < acknowledged || last.Sequence > acknowledged+1 {
		t.Errorf("the last frame is %d, the last acknowledged one %d", last.Sequence, acknowledged)
	}
	for i, d := range take(t, b, 1, int(last.Sequence)) {
		if d.Position.Sequence != uint64(i+1) {
			t.Fatalf("frame %d stands where %d is due", d.Position.Sequence, i+1)
		}
	}
}

// killWhilePublishing kills a publishing process after so many acknowledged
// frames and gives the last one.
func killWhilePublishing(t *testing.T, dir string, acknowledged uint64, frames int) uint64 {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	child.Env = append(os.Environ(), childEnv+"="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for n := 0; lines.Scan(); n++ {
		sequence, err := strconv.ParseUint(lines.Text(), 10, 64)
		if err != nil {
			t.Fatalf("the child says %q", lines.Text())
		}
		if n == 0 && sequence > acknowledged+2 || sequence <= acknowledged {
			t.Fatalf("the child goes on with frame %d behind %d", sequence, acknowledged)
		}
		acknowledged = sequence
		if n == frames {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := child.Wait(); err == nil {
		t.Fatal("the child ended by itself")
	}
	return acknowledged
}
