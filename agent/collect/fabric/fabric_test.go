package fabric

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/internal/metric"
)

func put(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// machine is a /sys with an InfiniBand and a RoCE adapter, in the format of
// kernel 6.8 with mlx5.
func machine(t testing.TB) string {
	dir := t.TempDir()
	for path, text := range map[string]string{
		"mlx5_0/ports/1/state":                                    "4: ACTIVE\n",
		"mlx5_0/ports/1/phys_state":                               "5: LinkUp\n",
		"mlx5_0/ports/1/link_layer":                               "InfiniBand\n",
		"mlx5_0/ports/1/rate":                                     "400 Gb/sec (4X NDR)\n",
		"mlx5_0/ports/1/counters/port_rcv_data":                   "1000\n",
		"mlx5_0/ports/1/counters/port_xmit_data":                  "2000\n",
		"mlx5_0/ports/1/counters/port_xmit_wait":                  "77\n",
		"mlx5_0/ports/1/counters/link_downed":                     "3\n",
		"mlx5_0/ports/1/counters/symbol_error":                    "12\n",
		"mlx5_0/ports/1/counters/link_error_recovery":             "1\n",
		"mlx5_0/ports/1/counters/port_rcv_errors":                 "5\n",
		"mlx5_0/ports/1/counters/VL15_dropped":                    "0\n",
		"mlx5_0/ports/1/counters/port_rcv_switch_relay_errors":    "N/A (no PMA)\n",
		"mlx5_bond_0/ports/1/state":                               "1: DOWN\n",
		"mlx5_bond_0/ports/1/rate":                                "2.5 Gb/sec (1X SDR)\n",
		"mlx5_bond_0/ports/1/link_layer":                          "Ethernet\n",
		"mlx5_bond_0/ports/1/hw_counters/out_of_sequence":         "9\n",
		"mlx5_bond_0/ports/1/hw_counters/roce_adp_retrans":        "1\n",
		"mlx5_bond_0/ports/1/hw_counters/local_ack_timeout_err":   "4\n",
		"mlx5_bond_0/ports/1/hw_counters/lifespan":                "10\n",
		"mlx5_bond_0/ports/1/gid_attrs/ndevs/0":                   "eth2\n",
		"mlx5_0/ports/1/counters/excessive_buffer_overrun_errors": "0\n",
	} {
		put(t, dir+"/class/infiniband/"+path, text)
	}
	return dir
}

func measure(t testing.TB, c collect.Collector) (map[string]float64, collect.Status, error) {
	t.Helper()
	got := map[string]float64{}
	status, err := c.Collect(t.Context(), func(s metric.Sample) {
		if len(s.Labels) != len(s.Def.Labels) {
			t.Errorf("%s has labels %q", s.Def.Name, s.Labels)
		}
		got[strings.TrimPrefix(s.Def.Name, "vigil_fabric_port_")+" "+strings.Join(s.Labels, " ")] = s.Value
	})
	return got, status, err
}

func TestPorts(t *testing.T) {
	sys := machine(t)
	c, err := New(Config{Sys: sys}, collect.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]float64{
		"state mlx5_0 1": 4, "rate_bits_per_second mlx5_0 1": 400e9,
		"received_bytes_total mlx5_0 1": 4000, "sent_bytes_total mlx5_0 1": 8000, "send_wait_ticks_total mlx5_0 1": 77,
		"link_downed_total mlx5_0 1": 3, "errors_total mlx5_0 1 symbol_error": 12,
		"errors_total mlx5_0 1 link_error_recovery": 1, "errors_total mlx5_0 1 port_rcv_errors": 5,
		"errors_total mlx5_0 1 VL15_dropped": 0, "errors_total mlx5_0 1 excessive_buffer_overrun_errors": 0,
		"state mlx5_bond_0 1": 1, "rate_bits_per_second mlx5_bond_0 1": 2.5e9,
		"errors_total mlx5_bond_0 1 out_of_sequence": 9, "errors_total mlx5_bond_0 1 local_ack_timeout_err": 4,
	}
	got, status, err := measure(t, c)
	if diff := cmp.Diff(want, got); diff != "" || status != collect.Ok || err != nil {
		t.Errorf("%s, %v; -want +got:\n%s", status, err, diff)
	}
	put(t, sys+"/class/infiniband/mlx5_0/ports/1/counters/link_downed", "4\n")
	put(t, sys+"/class/infiniband/mlx5_0/ports/1/state", "2: INIT\n")
	got, _, _ = measure(t, c)
	if got["link_downed_total mlx5_0 1"] != 4 || got["state mlx5_0 1"] != 2 {
		t.Errorf("after a flap: %v", got)
	}
}

func TestAdaptersComeAndGo(t *testing.T) {
	sys := machine(t)
	c, err := New(Config{Sys: sys}, collect.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	measure(t, c)
	if err := os.RemoveAll(sys + "/class/infiniband/mlx5_0/ports"); err != nil {
		t.Fatal(err)
	}
	got, status, err := measure(t, c)
	if status != collect.Unknown || err == nil || got["state mlx5_bond_0 1"] != 1 {
		t.Errorf("one cannot be read: %s, %v, %v", status, err, got)
	}
	if err := os.RemoveAll(sys + "/class/infiniband"); err != nil {
		t.Fatal(err)
	}
	if _, status, err := measure(t, c); status != collect.Unsupported || err != nil {
		t.Errorf("none is left: %s, %v", status, err)
	}
	put(t, sys+"/class/infiniband/mlx5_1/ports/1/state", "4: ACTIVE\n")
	if got, status, _ := measure(t, c); status != collect.Ok || got["state mlx5_1 1"] != 4 {
		t.Errorf("a new one: %s, %v", status, got)
	}
}

func TestStateThatIsNoneIsUnknown(t *testing.T) {
	sys := t.TempDir()
	put(t, sys+"/class/infiniband/mlx5_0/ports/1/state", "ACTIVE\n")
	c, _ := New(Config{Sys: sys}, collect.Deps{})
	if got, status, err := measure(t, c); status != collect.Unknown || err == nil || len(got) > 0 {
		t.Errorf("%s, %v, %v", status, err, got)
	}
}

func TestReadRate(t *testing.T) {
	for in, want := range map[string]float64{"400 Gb/sec (4X NDR)\n": 400e9, "2.5 Gb/sec (1X SDR)": 2.5e9, "0 Gb/sec (4X NDR)": 0} {
		if got, ok := readRate([]byte(in)); got != want || !ok {
			t.Errorf("%q: %v, %v", in, got, ok)
		}
	}
	for _, in := range []string{"", "fast", "10 Mb/sec", "-1 Gb/sec"} {
		if got, ok := readRate([]byte(in)); ok {
			t.Errorf("%q: %v", in, got)
		}
	}
}

func TestStateNames(t *testing.T) {
	if StateName(4) != "ACTIVE" || StateName(1) != "DOWN" || StateName(99) != "" {
		t.Error("the names are not the kernel's")
	}
}

func BenchmarkCollect(b *testing.B) {
	c, err := New(Config{Sys: machine(b)}, collect.Deps{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Collect(b.Context(), func(metric.Sample) {}); err != nil {
			b.Fatal(err)
		}
	}
}
