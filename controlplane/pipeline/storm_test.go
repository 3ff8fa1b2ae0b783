package pipeline

import (
	"fmt"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/controlplane/detect/rules"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// BenchmarkStorm has one run after another break, each with an incident of its
// own, in transactions of as many frames as the bus hands over at once.
func BenchmarkStorm(b *testing.B) {
	const size = 128
	p, _ := setup(b, filepath.Join(b.TempDir(), "vigil.db"), nil)
	r := &reader{Pipeline: p, bank: detect.NewBank(rules.All(rules.Defaults()))}
	n, used := 0, cpu(b)
	for b.Loop() {
		var frames []bus.Delivery
		for range size {
			n++
			event := notFinite(10)
			event.Traceparent, event.GetNonFinite().ParametersIntact = "", false
			event.EventId, event.RunId, event.Node, event.Time = fmt.Sprint("e", n), fmt.Sprint("run-", n), "n", timestamppb.New(start)
			frames = append(frames, bus.Delivery{Sequence: uint64(n), Message: bus.Message{
				Node: "n", Received: start, Batch: &agentv1.EventBatch{RunId: event.RunId, Events: []*commonv1.Event{event}},
			}})
		}
		if err := r.handle(b.Context(), slices.Clone(frames)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/(cpu(b)-used).Seconds(), "findings/s_a_core")
}

// cpu is the CPU time that the process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		b.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}
