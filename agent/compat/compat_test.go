package compat

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/vigil-ml/vigil/agent/page"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/metric"
)

// theirs reads a list of what another exporter shows: name, type, labels.
func theirs(t *testing.T, path string) map[string][]string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) >= 2 && fields[0] != "#" {
			all[fields[0]] = fields[1:]
		}
	}
	return all
}

// Whatever has a name of node_exporter's has its type and labels of its.
func TestNodeIsNodeExporters(t *testing.T) {
	known := theirs(t, "testdata/node_exporter.txt")
	for _, r := range nodeRules() {
		want := known[r.to.Name]
		if want == nil {
			t.Errorf("node_exporter has no %s", r.to.Name)
			continue
		}
		if got := string(r.to.Type); got != want[0] {
			t.Errorf("%s is a %s, node_exporter's a %s", r.to.Name, got, want[0])
		}
		labels := ""
		if len(want) > 1 {
			labels = want[1]
		}
		for _, l := range r.to.Labels {
			if !slices.Contains(strings.Split(labels, ","), l) {
				t.Errorf("%s has a label %s, node_exporter's has %s", r.to.Name, l, labels)
			}
		}
	}
}

// absent is what docs/compat.md says is not there of dcgm-exporter's own list.
func absent() []string {
	return []string{
		"DCGM_FI_DEV_PCIE_TX_THROUGHPUT", "DCGM_FI_DEV_PCIE_RX_THROUGHPUT",
		"DCGM_FI_DEV_VGPU_LICENSE_STATUS", "DCGM_FI_DEV_SYNC_BOOST_VIOLATION", "DCGM_FI_DEV_BOARD_LIMIT_VIOLATION",
		"DCGM_FI_DEV_LOW_UTIL_VIOLATION", "DCGM_FI_DEV_RELIABILITY_VIOLATION",
	}
}

func TestEveryDefaultCounterOfDCGMIsThere(t *testing.T) {
	known, ours := theirs(t, "testdata/dcgm_exporter.txt"), map[string]string{"DCGM_FI_DEV_XID_ERRORS": "gauge"}
	for _, r := range dcgmRules() {
		if before, ok := ours[r.to.Name]; ok && before != string(r.to.Type) {
			t.Errorf("%s is of two types", r.to.Name)
		}
		ours[r.to.Name] = string(r.to.Type)
	}
	page, err := os.ReadFile("../../docs/compat.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range known {
		switch got := ours[name]; {
		case slices.Contains(absent(), name):
			if got != "" || !strings.Contains(string(page), "`"+name+"`") {
				t.Errorf("%s is %q, and docs/compat.md does not say that it is absent", name, got)
			}
		case got != want[0]:
			t.Errorf("%s is %q, dcgm-exporter's %q", name, got, want[0])
		}
	}
}

// shown reads what a format shows of some samples as Prometheus' parser does.
func shown(t *testing.T, format string, samples ...metric.Sample) map[string]float64 {
	t.Helper()
	p := page.New(0, 0)
	New(format, Deps{
		Latest: slices.Values(samples), Host: "n1", Clock: func() time.Time { return time.Unix(1_800_000_000, 0) },
	})(p)
	var text bytes.Buffer
	if _, err := p.WriteTo(&text); err != nil {
		t.Fatal(err)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(&text)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			slices.Sort(labels)
			all[fmt.Sprintf("%s{%s}", f.GetName(), strings.Join(labels, ","))] = value(m)
		}
	}
	return all
}

func value(m *dto.Metric) float64 {
	return m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetUntyped().GetValue()
}

func TestDCGM(t *testing.T) {
	of := func(def metric.Def, value float64, labels ...string) metric.Sample {
		return metric.Sample{Def: def, Labels: append([]string{"3"}, labels...), Value: value}
	}
	got := shown(t, DCGM,
		of(metric.GPUInfo, 1, "GPU-abc", "NVIDIA H100 80GB HBM3", "00000000:5D:00.0", "2", "580.1", "96.00"),
		of(metric.GPUClockSM, 1.98e9), of(metric.GPUEnergy, 12.5), of(metric.GPUUtilization, 0.5),
		of(metric.GPUMemoryTotal, 80<<30), of(metric.GPUMemoryUsed, 20<<30), of(metric.GPUMemoryReserved, 1<<30),
		of(metric.GPUThrottled, 1, "power_cap"), of(metric.GPUThrottled, 0, "hardware_slowdown"), of(metric.GPUThrottled, 1, "hardware_thermal"),
		of(metric.GPUThrottledSeconds, 0.25, "power"), of(metric.GPUNVLinkSentTotal, 4<<20), of(metric.GPUNVLinkReceivedTotal, 1<<20),
		of(metric.GPUXIDs, 2, "79"), of(metric.GPUXIDTime, 200, "79"), of(metric.GPUXIDTime, 100, "13"),
		of(metric.GPUMIGMemoryUsed, 5<<30, "7", "1g.10gb"),
		metric.Sample{Def: metric.GPUPower, Labels: []string{"4"}, Value: 9}, // a GPU without names
		metric.Sample{Def: metric.HostLoad1, Value: 1},
	)
	const labels = "DCGM_FI_DRIVER_VERSION=580.1,%sHostname=n1,UUID=GPU-abc,device=nvidia2,gpu=3,modelName=NVIDIA H100 80GB HBM3,pci_bus_id=00000000:5D:00.0"
	gpu, instance := fmt.Sprintf(labels, ""), fmt.Sprintf(labels, "GPU_I_ID=7,GPU_I_PROFILE=1g.10gb,")
	want := map[string]float64{
		"DCGM_FI_DEV_SM_CLOCK{" + gpu + "}": 1980, "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{" + gpu + "}": 12500,
		"DCGM_FI_DEV_GPU_UTIL{" + gpu + "}": 50, "DCGM_FI_DEV_FB_TOTAL{" + gpu + "}": 81920, "DCGM_FI_DEV_FB_USED{" + gpu + "}": 20480,
		"DCGM_FI_DEV_FB_RESERVED{" + gpu + "}": 1024, "DCGM_FI_DEV_FB_FREE{" + gpu + "}": 60416,
		"DCGM_FI_DEV_CLOCK_THROTTLE_REASONS{" + gpu + "}": 0x44, "DCGM_FI_DEV_POWER_VIOLATION{" + gpu + "}": 250000,
		"DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL{" + gpu + "}": 5120, "DCGM_FI_DEV_XID_ERRORS{" + gpu + "}": 79, "DCGM_FI_DEV_FB_USED{" + instance + "}": 5120,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(- want, + got):\n%s", diff)
	}
	free := shown(t, DCGM, of(metric.GPUInfo, 1, "u", "m", "p", "0", "d", "v"), of(metric.GPUMemoryTotal, 80<<30))
	for name := range free {
		if strings.HasPrefix(name, "DCGM_FI_DEV_FB_FREE") {
			t.Error("free memory is shown without what is used")
		}
	}
}

func TestNode(t *testing.T) {
	got := shown(t, Node,
		metric.Sample{Def: metric.HostCoreSeconds, Labels: []string{"0", "idle"}, Value: 7},
		metric.Sample{Def: metric.HostMemoryTotal, Value: 1024},
		metric.Sample{Def: metric.HostStall, Labels: []string{"memory", "full"}, Value: 3},
		metric.Sample{Def: metric.HostStall, Labels: []string{"cpu", "full"}, Value: 4}, // which node_exporter leaves out
		metric.Sample{Def: metric.HostDiskInfo, Labels: []string{"/data", "/dev/sda1", "xfs"}, Value: 1},
		metric.Sample{Def: metric.HostDiskFree, Labels: []string{"/data"}, Value: 5},
		metric.Sample{Def: metric.HostDiskFree, Labels: []string{"/other"}, Value: 6},
		metric.Sample{Def: metric.HostEnergy, Labels: []string{"package-1"}, Value: 10},
		metric.Sample{Def: metric.HostEnergy, Labels: []string{"dram-1"}, Value: 11},
		metric.Sample{Def: metric.HostHugeSize, Value: 2 << 20},
		metric.Sample{Def: metric.HostHugeTotal, Value: 16 << 20},
		metric.Sample{Def: metric.HostHugeFree, Value: 6 << 20},
		metric.Sample{Def: metric.HostHugeReserved, Value: 4 << 20}, metric.Sample{Def: metric.HostHugeSurplus, Value: 0},
		metric.Sample{Def: metric.HostNetSent, Labels: []string{"eth0"}, Value: 8},
		metric.Sample{Def: metric.HostSwapIn, Value: 8192},
		metric.Sample{Def: metric.FabricRate, Labels: []string{"mlx5_0", "1"}, Value: 4e11},
		metric.Sample{Def: metric.FabricErrors, Labels: []string{"mlx5_0", "1", "symbol_error"}, Value: 9},
	)
	maps.DeleteFunc(got, func(name string, _ float64) bool { return strings.HasPrefix(name, "node_uname_info{") })
	want := map[string]float64{
		"node_cpu_seconds_total{cpu=0,mode=idle}": 7, "node_memory_MemTotal_bytes{}": 1024,
		"node_pressure_memory_stalled_seconds_total{}": 3, "node_filesystem_free_bytes{device=/dev/sda1,fstype=xfs,mountpoint=/data}": 5,
		"node_network_transmit_bytes_total{device=eth0}": 8, "node_vmstat_pswpin{}": 2,
		"node_infiniband_rate_bytes_per_second{device=mlx5_0,port=1}": 5e10, "node_infiniband_symbol_error_total{device=mlx5_0,port=1}": 9,
		"node_time_seconds{}": 1.8e9, "node_rapl_package_joules_total{index=1}": 10, "node_rapl_dram_joules_total{index=1}": 11,
		"node_memory_Hugepagesize_bytes{}": 2 << 20, "node_memory_HugePages_Total{}": 8, "node_memory_HugePages_Free{}": 3,
		"node_memory_HugePages_Rsvd{}": 2, "node_memory_HugePages_Surp{}": 0,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(- want, + got):\n%s", diff)
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string][]string{"": nil, "dcgm": {DCGM}, "node, dcgm,node": {Node, DCGM}} {
		got, err := Parse(text)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%q: %v, %s", text, err, diff)
		}
	}
	if _, err := Parse("dcgm,nodes"); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), `"nodes"`) {
		t.Errorf("it says %v", err)
	}
}
