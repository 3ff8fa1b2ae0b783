package family

import (
	"os"
	"strings"
	"testing"

	"github.com/vigil-ml/vigil/agent/collect/sysfile"
)

func TestThisProcessIsInAGroupOrInNone(t *testing.T) {
	var read sysfile.Reader
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	where, err := Group(&read, "/proc", int64(os.Getpid()))
	if err != nil || !strings.Contains(string(data), "0::"+where) {
		t.Errorf("%q, %v; the kernel says %q", where, err, data)
	}
}
