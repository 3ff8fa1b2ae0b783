package agent

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/agent/spool"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFaultToldAgainIsTheSameEvent(t *testing.T) {
	at := timestamppb.New(time.Unix(5, 0))
	first := faultEvent(&commonv1.NodeFault{Key: "kmsg/boot/7", Time: at})
	again := faultEvent(&commonv1.NodeFault{Key: "kmsg/boot/7", Time: at})
	other := faultEvent(&commonv1.NodeFault{Key: "kmsg/boot/8", Time: at})
	if first.EventId == "" || first.EventId != again.EventId || first.EventId == other.EventId || first.Time != at {
		t.Errorf("ids %q, %q and %q; time %v", first.EventId, again.EventId, other.EventId, first.Time)
	}
	if one := faultEvent(&commonv1.NodeFault{}); one.EventId != "" || one.Time != nil {
		t.Errorf("a fault without a key: %v", one)
	}
}

// TestNodesEventsReachTheSpool runs a whole agent over a kernel log, twice.
func TestNodesEventsReachTheSpool(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "kmsg")
	say := func(text string) {
		t.Helper()
		if err := os.WriteFile(log, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// The log says when by the time since the machine's start: all of it is old
	// here, so the history is long.
	c, err := decode(fmt.Sprintf(`
node: n1
state_dir: %s
listen: 127.0.0.1:0
report: {interval: 1s}
uplink: {address: "127.0.0.1:1"}
collectors: {kernel: {interval: 20ms, timeout: 1s, settings: {log: %s, history: 1000000h}}, nvml: {off: true}}
`, filepath.Join(dir, "state"), log))
	if err != nil {
		t.Fatal(err)
	}
	const xid = "4,%d,5,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus.\n"
	for round := range 2 {
		text := ""
		for i := range round + 1 {
			text += fmt.Sprintf(xid, i)
		}
		say(text)
		cursor := fmt.Sprintf(`"next":%d`, round+1)
		began := time.Now()
		runUntil(t, c, func() bool {
			if round > 0 && time.Since(began) < 2*c.Report.Interval {
				return false // so that there is a report
			}
			data, err := os.ReadFile(filepath.Join(dir, "state", "kernel-cursor.json"))
			return err == nil && strings.Contains(string(data), cursor)
		})
	}
	faults, reports := spooled(t, c)
	if faults != 2 {
		t.Errorf("%d faults are in the spool, want the two of the log once each", faults)
	}
	if reports < 1 {
		t.Errorf("no report of how the node is")
	}
}

// runUntil runs an agent until a condition holds.
func runUntil(t *testing.T, c Config, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- Deps{}.Run(ctx, c, nil, &logWriter{t}) }()
	testkit.Eventually(t, "the agent", holds)
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

type logWriter struct{ t *testing.T }

func (w *logWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// spooled counts the node's events in an agent's spool.
func spooled(t *testing.T, c Config) (faults, reports int) {
	t.Helper()
	if err := c.settle(); err != nil {
		t.Fatal(err)
	}
	s, err := spool.Open(c.Spool.Events, spool.Deps{
		FS: durable.OS{}, Log: testkit.Logger(t), Metrics: spool.NewMetrics(prometheus.NewRegistry()), Class: "events",
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	err = s.Each(func(r spool.Record) error {
		var frame agentv1.Frame
		if err := proto.Unmarshal(r.Payload, &frame); err != nil {
			return err
		}
		for _, e := range frame.GetEvents().GetEvents() {
			switch {
			case e.GetNodeFault() != nil:
				faults++
			case e.GetNodeReport() != nil:
				reports++
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return faults, reports
}

// TestASocketForOthersWarns: an agent that lets other users in says at its start that
// their trainers cannot save.
func TestASocketForOthersWarns(t *testing.T) {
	for mode, warns := range map[string]bool{"0600": false, "0666": true} {
		var said bytes.Buffer
		a := &agent{config: Defaults(), log: slog.New(slog.NewTextHandler(&said, nil))}
		a.config.Trainers.SocketMode = mode
		a.warnOfOthers(func() error { return fault.WithHint(fault.New(fault.Precondition, "not root"), "run it as root") })
		a.warnOfOthers(func() error { return nil })
		if got := strings.Count(said.String(), "run it as root"); (got == 1) != warns {
			t.Errorf("socket mode %s: %s", mode, &said)
		}
	}
}
