package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/agent/scan"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// scanPause lies between the two calls of a scan: long enough for a busy share
// in hundredths of a second.
const scanPause = 300 * time.Millisecond

// Scan looks at the node once with the collectors that the configuration
// leaves on; no agent needs to run, and nothing of one that does is touched.
// It takes at most the limit, and what does not answer by then is stuck.
func Scan(ctx context.Context, config Config, limit time.Duration) (scan.Report, error) {
	// What collectors keep, such as how far the kernel log is read, would be
	// the running agent's.
	dir, err := os.MkdirTemp("", "vigil-scan-")
	if err != nil {
		return scan.Report{}, fmt.Errorf("make directory for the scan: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	var mu sync.Mutex
	var faults []*commonv1.NodeFault
	sources, err := config.sources(collect.Deps{
		Log: slog.New(slog.DiscardHandler), StateDir: dir,
		Trainers: func() []collect.Trainer { return nil },
		Faults: func(_ context.Context, fault *commonv1.NodeFault) error {
			mu.Lock()
			defer mu.Unlock()
			faults = append(faults, fault)
			return nil
		},
	})
	if err != nil {
		return scan.Report{}, err
	}
	for i := range sources {
		sources[i].Timeout = max(limit-scanPause, time.Millisecond) / 2
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began := time.Now()
	results := collect.Once(ctx, sources, scanPause)
	mu.Lock()
	defer mu.Unlock()
	report := scan.Judge(config.Scan, results, faults)
	report.Node, report.Time = config.Node, began
	if report.Node == "" {
		report.Node = hostName()
	}
	return report, nil
}
