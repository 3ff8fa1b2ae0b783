package vault_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/scratch"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// benchBytes is the size of a checkpoint in the comparison.
func benchBytes() int {
	mib, err := strconv.Atoi(os.Getenv("VIGIL_BENCH_MIB"))
	if err != nil || mib <= 0 {
		mib = 512
	}
	return mib << 20
}

// BenchmarkCheckpoint saves the same bytes in several ways, one after the other
// in one run, and gives each as a ratio too: what the training thread waits for,
// when the bytes are durable, and when they are verified. `make bench-vault`
// prints it.
func BenchmarkCheckpoint(b *testing.B) {
	data := weights(benchBytes())
	home := b.TempDir()
	report := func(b *testing.B, per map[string]float64) {
		for unit, value := range per {
			b.ReportMetric(value/float64(b.N), unit)
		}
		b.ReportMetric(0, "ns/op")
	}
	copied := math.Inf(1) // seconds; the other benchmarks are measured by it
	b.Run("memory copy", func(b *testing.B) {
		to := make([]byte, len(data))
		copy(to, data) // its pages are there
		took := 0.0
		for range b.N {
			start := time.Now()
			copy(to, data)
			took += time.Since(start).Seconds()
		}
		copied = took / float64(b.N)
		report(b, map[string]float64{"blocked-s": took})
	})
	b.Run("copy into fresh memory", func(b *testing.B) {
		took := 0.0
		for range b.N {
			start := time.Now()
			kept := bytes.Clone(data)
			took += time.Since(start).Seconds()
			runtime.KeepAlive(kept)
			kept = nil
			debug.FreeOSMemory() // what another training process has not touched yet
		}
		report(b, map[string]float64{"blocked-s": took, "copies-blocked": took / copied})
	})
	b.Run("copy into memory files", func(b *testing.B) {
		dir, err := os.MkdirTemp("/dev/shm", "vigil-bench")
		if err != nil {
			b.Skip(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		took := 0.0
		for i := range b.N {
			start := time.Now()
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), data, 0o600); err != nil {
				b.Fatal(err)
			}
			took += time.Since(start).Seconds()
			_ = os.Remove(filepath.Join(dir, fmt.Sprint(i)))
		}
		report(b, map[string]float64{"blocked-s": took})
	})
	b.Run("write and fsync", func(b *testing.B) {
		took := 0.0
		for i := range b.N {
			start := time.Now()
			plainWrite(b, filepath.Join(home, "plain", fmt.Sprint(i)), data)
			took += time.Since(start).Seconds()
			_ = os.RemoveAll(filepath.Join(home, "plain"))
		}
		report(b, map[string]float64{"blocked-s": took, "durable-s": took})
	})
	b.Run("torch.save and fsync", func(b *testing.B) {
		took := torchSave(b, home, len(data))
		report(b, map[string]float64{"blocked-s": took, "durable-s": took})
	})
	for name, change := range map[string]func(*vault.Config){"vault in the clear": func(*vault.Config) {}, "vault encrypted": encrypted(b)} {
		b.Run(name, func(b *testing.B) { benchVault(b, data, change) })
	}
}

// weights is numbers as training leaves them: they do not shrink.
func weights(n int) []byte {
	source := rand.New(rand.NewPCG(7, 7))
	data := make([]byte, n)
	for i := 0; i+8 <= n; i += 8 {
		x := source.Uint64()&^0x7f800000_7f800000 | 0x3c000000_3c000000 // finite floats
		for j := range 8 {
			data[i+j] = byte(x >> (8 * j))
		}
	}
	return data
}

func plainWrite(b *testing.B, path string, data []byte) {
	b.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		b.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := f.Write(data); err != nil {
		b.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
}

// torchSave gives the seconds that b.N saves took, measured in Python so that
// its start does not count.
func torchSave(b *testing.B, home string, size int) float64 {
	const python = "/usr/bin/python3" // Debian's, which has Debian's torch
	if exec.Command(python, "-c", "import torch").Run() != nil {
		b.Skip("torch is not installed")
	}
	script := `import os, sys, time, torch
path, n, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
state = {"w%d" % i: torch.rand(size // 4 // 8) for i in range(8)}
took = 0.0
for _ in range(n):
    start = time.perf_counter()
    with open(path, "wb") as f:
        torch.save(state, f)
        f.flush()
        os.fsync(f.fileno())
    took += time.perf_counter() - start
    os.remove(path)
print(took)`
	out, err := exec.Command(python, "-c", script, filepath.Join(home, "torch.pt"), strconv.Itoa(b.N), strconv.Itoa(size)).Output()
	if err != nil {
		b.Fatal(err)
	}
	took, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
	if err != nil {
		b.Fatal(err)
	}
	return took
}

// benchVault gives what the first checkpoint has training wait for apart: those
// after it find the first one's memory. Each is measured beside a copy of the
// same bytes into memory that is there, made just before it.
func benchVault(b *testing.B, data []byte, change func(*vault.Config)) {
	dir := b.TempDir()
	v := open(b, dir, durable.OS{}, change, func(c *vault.Config) { c.StagingDir = "" })
	group := life.NewGroup(context.Background())
	group.Go("vault", v.Run)
	var first, durableAt, verified, cpu float64
	var blocked, copies []float64
	beside := bytes.Clone(data)
	writer := scratch.NewWriter()
	defer func() { _ = writer.Close() }()
	for i := range b.N + 1 {
		id := fmt.Sprint("ck", i)
		start := time.Now()
		copy(beside, data)
		copied := time.Since(start).Seconds()
		before := cpuSeconds()
		start = time.Now()
		_, to, err := v.Begin(b.Context(), vault.BeginRequest{RunID: "run", CheckpointID: id, SizeBytes: int64(len(data))})
		if err != nil {
			b.Fatal(err)
		}
		if err := writer.WriteFile(to, "weights.bin", data); err != nil {
			b.Fatal(err)
		}
		err = v.Commit(b.Context(), vault.CommitRequest{RunID: "run", CheckpointID: id, Metadata: &commonv1.CheckpointMetadata{
			Step: int64(i), WorldSize: 1, NonfiniteParameters: proto.Int64(0),
		}})
		if err != nil {
			b.Fatal(err)
		}
		took := time.Since(start).Seconds()
		committed, staging := time.Now(), cpuSeconds()-before
		v.wait(id, "DURABLE")
		durableTook, sealing := time.Since(committed).Seconds(), cpuSeconds()-before-staging
		v.wait(id, "VERIFIED")
		verifiedTook := time.Since(committed).Seconds()
		testkit.Eventually(b, "the queue to be empty", func() bool { return v.Saved("run", id) }) // training takes minutes
		if i == 0 {
			first = took
			continue
		}
		blocked, copies = append(blocked, took), append(copies, copied)
		durableAt, verified, cpu = durableAt+durableTook, verified+verifiedTook, cpu+sealing
	}
	group.Stop()
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
	n := float64(b.N)
	b.ReportMetric(first, "first-blocked-s")
	b.ReportMetric(median(blocked), "blocked-s")
	b.ReportMetric(median(blocked)/median(copies), "copies-blocked")
	b.ReportMetric(durableAt/n, "durable-s")
	b.ReportMetric(verified/n, "verified-s")
	b.ReportMetric(float64(len(data))*n/durableAt/1e6, "MB/s-to-durable")
	b.ReportMetric(float64(len(data))*n/cpu/1e6, "MB/s-of-a-core")
	b.ReportMetric(0, "ns/op")
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

// cpuSeconds is the time of the processor that this process has had.
func cpuSeconds() float64 {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}
