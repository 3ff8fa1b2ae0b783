package agent_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/site"
)

// The benchmark beside node_exporter is for `make bench-agent`, which names the
// two programs.
const (
	benchAgent  = "VIGIL_BENCH_AGENT"
	benchPeer   = "VIGIL_BENCH_NODE_EXPORTER"
	benchLength = "VIGIL_BENCH_SECONDS"
)

// contestant is one of the two programs while it is measured.
type contestant struct {
	name     string
	program  string
	args     func(dir, address string, interval time.Duration) []string
	first    string // a series that shows that there is data
	interval time.Duration
	scraped  time.Duration // how often /metrics is read

	cmd     *exec.Cmd
	address string
	begun   time.Duration // from the start to the first data
	figures figures
}

// figures is what a contestant took in a time.
type figures struct {
	cpu     float64 // seconds
	samples float64
	resident, proportional,
	series float64
	helpers int
}

func contestants(b *testing.B, interval time.Duration, uplink string) []*contestant {
	return []*contestant{
		{name: "vigil-agent", program: installed(b, os.Getenv(benchAgent)), first: "\nvigil_host_memory_total_bytes ", interval: interval, scraped: 15 * time.Second,
			args: func(dir, address string, interval time.Duration) []string {
				config := fmt.Sprintf(`{node: bench, state_dir: %q, listen: %q, gpu: simulated=8xH100, uplink: {address: %q}, collectors: {`, dir, address, uplink)
				for _, kind := range []string{"host", "process", "cgroup", "fabric", "nvml"} {
					config += fmt.Sprintf("%s: {interval: %s}, ", kind, interval)
				}
				path := filepath.Join(dir, "agent.yaml")
				_ = os.WriteFile(path, []byte(config+"}}\n"), 0o600) // a missing file ends the program
				return []string{"--config", path}
			}},
		{name: "node_exporter", program: installed(b, os.Getenv(benchPeer)), first: "\nnode_memory_MemTotal_bytes ", interval: interval, scraped: interval,
			args: func(_, address string, _ time.Duration) []string {
				return []string{"--web.listen-address=" + address, "--log.level=error"}
			}},
	}
}

// installed copies a program, as installing it does. What a linker has just
// written lies in the page cache in pieces so large that Linux 6.18 maps all of it
// into a process that touches a part.
func installed(b *testing.B, program string) string {
	b.Helper()
	data, err := os.ReadFile(program)
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.TempDir(), filepath.Base(program))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o700)
	if err != nil {
		b.Fatal(err)
	}
	for part := range slices.Chunk(data, 32<<10) {
		if _, err := f.Write(part); err != nil {
			b.Fatal(err)
		}
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		b.Fatal(err)
	}
	return path
}

// BenchmarkBesideNodeExporter runs the agent with 8 simulated GPUs and a trainer
// with children beside node_exporter, at one second and at ten, and prints what
// each takes. The agent measures by itself, sends what it has to a control plane
// and is read as Prometheus would; node_exporter measures when it is read. What
// the control plane and the readers take does not count.
func BenchmarkBesideNodeExporter(b *testing.B) {
	if os.Getenv(benchAgent) == "" || os.Getenv(benchPeer) == "" {
		b.Skip("make bench-agent runs it")
	}
	seconds, err := strconv.Atoi(cmp.Or(os.Getenv(benchLength), "60"))
	if err != nil {
		b.Fatal(err)
	}
	for _, interval := range []time.Duration{time.Second, 10 * time.Second} {
		b.Run(interval.String(), func(b *testing.B) {
			both := contestants(b, interval, controlPlane(b))
			for _, c := range both {
				c.start(b)
			}
			register(b, filepath.Join(filepath.Dir(both[0].cmd.Args[2]), "agent.sock"))
			ctx, cancel := context.WithTimeout(b.Context(), time.Duration(seconds)*time.Second)
			defer cancel()
			race(ctx, b, both)
			report(b, both, time.Duration(seconds)*time.Second)
		})
	}
}

// controlPlane starts one and gives its address for agents.
func controlPlane(b *testing.B) string {
	b.Helper()
	s, err := site.Plan(filepath.Join(b.TempDir(), "site"), filepath.Dir(os.Getenv(benchAgent)))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	p, err := s.ControlPlane(b.Context(), "")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(p.Kill)
	return s.Agents
}

// start starts the program and waits for its first data.
func (c *contestant) start(b *testing.B) {
	b.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	c.address = free.Addr().String()
	_ = free.Close()
	c.cmd = exec.Command(c.program, c.args(b.TempDir(), c.address, c.interval)...)
	began := time.Now()
	if err := c.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.cmd.Process.Kill(); _ = c.cmd.Wait() })
	for {
		if strings.Contains(c.read(), c.first) {
			break
		}
		if time.Since(began) > time.Minute {
			b.Fatalf("%s has no data after a minute", c.name)
		}
		time.Sleep(time.Millisecond)
	}
	c.begun = time.Since(began)
}

func (c *contestant) read() string {
	response, err := http.Get("http://" + c.address + "/metrics")
	if err != nil {
		return ""
	}
	defer func() { _ = response.Body.Close() }()
	body, _ := io.ReadAll(response.Body)
	return string(body)
}

// register makes this process and some children a trainer of the agent's.
func register(b *testing.B, socket string) {
	b.Helper()
	for range 4 {
		child := exec.Command("sleep", "600")
		if err := child.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = child.Process.Kill(); _ = child.Wait() })
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	body, _ := json.Marshal(map[string]any{"runId": "bench", "trainer": map[string]any{"worldSize": 1}})
	response, err := client.Post("http://agent/vigil.trainer.v1.TrainerService/Register", "application/json", bytes.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if said, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusOK {
		b.Fatalf("register a trainer: %s", said)
	}
}

// race reads both at their intervals until ctx ends, and takes their figures.
func race(ctx context.Context, b *testing.B, both []*contestant) {
	before := make([]figures, len(both))
	reads := make([]int, len(both))
	for i, c := range both {
		before[i] = c.take()
	}
	began, tick := time.Now(), time.NewTicker(time.Second)
	defer tick.Stop()
	for ctx.Err() == nil {
		for i, c := range both {
			if time.Since(began) >= time.Duration(reads[i]+1)*c.scraped {
				reads[i]++
				c.read()
			}
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	for i, c := range both {
		c.figures = c.take()
		c.figures.cpu -= before[i].cpu
		c.figures.samples -= before[i].samples
		if c.figures.samples == 0 { // it samples when it is read
			c.figures.samples = float64(reads[i]) * c.figures.series
		}
		if c.figures.samples == 0 || c.figures.cpu <= 0 {
			b.Fatalf("%s: %+v", c.name, c.figures)
		}
	}
}

// take looks at the program and its helpers.
func (c *contestant) take() (f figures) {
	for _, pid := range append([]int{c.cmd.Process.Pid}, childrenOf(c.cmd.Process.Pid)...) {
		f.cpu += cpuSeconds(pid)
		f.proportional += kib(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss:")
		if f.helpers++; f.helpers == 1 {
			f.resident = kib(fmt.Sprintf("/proc/%d/status", pid), "VmRSS:")
		}
	}
	for line := range strings.Lines(c.read()) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		f.series++
		if count, ok := strings.CutPrefix(line, metric.AgentSamples.Name+" "); ok {
			f.samples, _ = strconv.ParseFloat(strings.TrimSpace(count), 64)
		}
	}
	return f
}

func childrenOf(pid int) (pids []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		data, _ := os.ReadFile(list)
		for _, field := range strings.Fields(string(data)) {
			if child, err := strconv.Atoi(field); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}

// cpuSeconds is the time that the process' threads ran, which the kernel counts
// in nanoseconds.
func cpuSeconds(pid int) (sum float64) {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, thread := range threads {
		data, _ := os.ReadFile(thread)
		if fields := strings.Fields(string(data)); len(fields) > 0 {
			nanoseconds, _ := strconv.ParseFloat(fields[0], 64)
			sum += nanoseconds / 1e9
		}
	}
	return sum
}

// kib reads a line such as "VmRSS: 20 kB", in bytes.
func kib(path, name string) float64 {
	data, _ := os.ReadFile(path)
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			return n * 1024
		}
	}
	return 0
}

// target is a figure that the agent is held to; 0: none at this interval.
type target struct {
	name  string
	unit  string
	of    func(c *contestant) float64
	below func(interval time.Duration, peer float64) float64
}

func report(b *testing.B, both []*contestant, length time.Duration) {
	fixed := func(n float64) func(time.Duration, float64) float64 {
		return func(time.Duration, float64) float64 { return n }
	}
	none := fixed(0)
	minutes := length.Minutes()
	rows := []target{
		{"binary, stripped", "MB", func(c *contestant) float64 { return sizeMB(c.program) }, fixed(25)},
		{"time to first data", "s", func(c *contestant) float64 { return c.begun.Seconds() }, fixed(0.1)},
		{"RSS", "MB", func(c *contestant) float64 { return c.figures.resident / 1e6 }, fixed(30)},
		{"PSS with helpers", "MB", func(c *contestant) float64 { return c.figures.proportional / 1e6 }, none},
		{"CPU a minute", "s", func(c *contestant) float64 { return c.figures.cpu / minutes }, func(interval time.Duration, _ float64) float64 {
			if interval == time.Second {
				return 0.3
			}
			return 0.1
		}},
		{"series", "", func(c *contestant) float64 { return c.figures.series }, none},
		{"samples a minute", "", func(c *contestant) float64 { return c.figures.samples / minutes }, none},
		{"CPU a sample", "us", func(c *contestant) float64 { return c.figures.cpu / c.figures.samples * 1e6 }, func(_ time.Duration, peer float64) float64 { return peer }},
	}
	table := fmt.Sprintf("\nevery %s, for %s, side by side\n%-22s %14s %14s   %s\n", both[0].interval, length, "", both[0].name, both[1].name, "target for vigil-agent")
	for _, row := range rows {
		ours, theirs := row.of(both[0]), row.of(both[1])
		verdict := ""
		if bound := row.below(both[0].interval, theirs); bound > 0 {
			verdict = fmt.Sprintf("< %.3g: met", bound)
			if ours >= bound {
				verdict = fmt.Sprintf("< %.3g: MISSED", bound)
			}
		}
		table += fmt.Sprintf("%-22s %14.3f %14.3f   %s\n", strings.TrimSpace(row.name+" "+row.unit), ours, theirs, verdict)
	}
	fmt.Print(table)
	b.ReportMetric(rows[len(rows)-1].of(both[0])/rows[len(rows)-1].of(both[1]), "CPU/peer")
}

func sizeMB(path string) float64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return float64(info.Size()) / 1e6
}
