package ingest

import (
	"context"
	"runtime"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/vigil-ml/vigil/internal/testkit/bomb"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

// TestHostileFrames: an agent's frame that unpacks to more than a frame may have
// ends its stream before it takes the memory.
func TestHostileFrames(t *testing.T) {
	p := start(t, t.TempDir())
	zipped := bomb.Zeros(256)
	for name, tc := range map[string]struct {
		frame []byte
		code  codes.Code
	}{
		"256 MiB, compressed":    {bomb.Frame(zipped, true, len(zipped)), codes.ResourceExhausted},
		"says that it has 4 GiB": {bomb.Frame([]byte("x"), false, 1<<32-1), codes.ResourceExhausted},
		"compressed, and is not": {bomb.Frame([]byte("not gzip"), true, 8), codes.Internal},
		"no protocol buffer":     {bomb.Frame([]byte("\xff\xff\xff"), false, 3), codes.Internal},
		"nothing is said":        {bomb.Frame(nil, false, 0), codes.InvalidArgument},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		code, err := bomb.Call(ctx, p.address, agentv1.AgentService_Connect_FullMethodName, tc.frame, nil)
		cancel()
		runtime.ReadMemStats(&after)
		if code != tc.code {
			t.Errorf("%s: %v, %v; want %v", name, code, err, tc.code)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 128<<20 {
			t.Errorf("%s: took %d MiB of memory", name, took>>20)
		}
	}
}
