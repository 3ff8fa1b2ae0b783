package scan

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/internal/metric"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// measured is one sample; the labels' names do not matter here.
func measured(name string, value float64, labels ...string) metric.Sample {
	return metric.Sample{Def: metric.Def{Name: name}, Value: value, Labels: labels}
}

// judged gives the statuses by name, of what some samples lead to.
func judged(samples ...metric.Sample) map[string]Status {
	report := Judge(Defaults(), []collect.Result{{Name: "c", Status: collect.Ok, Samples: samples}}, nil)
	all := map[string]Status{}
	for _, c := range report.Checks {
		if c.Name != "collector c" {
			all[c.Name] = c.Status
		}
	}
	return all
}

func TestFiguresAreJudged(t *testing.T) {
	for name, tc := range map[string]struct {
		samples []metric.Sample
		want    map[string]Status
	}{
		"nothing":  {nil, map[string]Status{}},
		"busy CPU": {[]metric.Sample{measured("vigil_host_cpu_busy_ratio", 0.95)}, map[string]Status{"cpu": Warn}},
		"idle CPU": {[]metric.Sample{measured("vigil_host_cpu_busy_ratio", 0.94)}, map[string]Status{"cpu": Ok}},
		"memory": {[]metric.Sample{measured("vigil_host_memory_total_bytes", 100), measured("vigil_host_memory_available_bytes", 9)},
			map[string]Status{"memory": Warn}},
		"memory is never a failure": {[]metric.Sample{measured("vigil_host_memory_total_bytes", 100), measured("vigil_host_memory_available_bytes", 0)},
			map[string]Status{"memory": Warn}},
		"disks": {[]metric.Sample{
			measured("vigil_host_disk_total_bytes", 100, "/"), measured("vigil_host_disk_available_bytes", 50, "/"),
			measured("vigil_host_disk_total_bytes", 100, "/data"), measured("vigil_host_disk_available_bytes", 5, "/data"),
			measured("vigil_host_disk_total_bytes", 100, "/full"), measured("vigil_host_disk_available_bytes", 0, "/full"),
			measured("vigil_host_disk_total_bytes", 100, "/unknown"),
			measured("vigil_host_disk_total_bytes", 0, "/none"), measured("vigil_host_disk_available_bytes", 0, "/none"),
		}, map[string]Status{"disk /": Ok, "disk /data": Warn, "disk /full": Fail}},
		"clock": {[]metric.Sample{measured("vigil_host_clock_synchronised", 0), measured("vigil_host_clock_offset_seconds", -0.6)},
			map[string]Status{"clock": Warn, "clock offset": Warn}},
		"clock far off": {[]metric.Sample{measured("vigil_host_clock_synchronised", 1), measured("vigil_host_clock_offset_seconds", 5)},
			map[string]Status{"clock": Ok, "clock offset": Fail}},
		"sick GPU": {[]metric.Sample{
			measured("vigil_gpu_ecc_uncorrected_errors_total", 1, "0"), measured("vigil_gpu_row_remap_pending", 1, "0"),
			measured("vigil_gpu_row_remap_failed", 1, "0"), measured("vigil_gpu_stuck", 1, "3"), measured("vigil_gpu_nvlinks_down", 2, "0"),
			measured("vigil_gpu_throttled", 1, "0", "hardware_thermal"), measured("vigil_gpu_throttled", 1, "0", "power_cap"),
		}, map[string]Status{"gpu ecc 0": Fail, "gpu remap pending 0": Warn, "gpu remap failed 0": Fail, "gpu stuck 3": Fail,
			"gpu nvlink 0": Fail, "gpu throttled 0 hardware_thermal": Warn}},
		"healthy GPU": {[]metric.Sample{
			measured("vigil_gpu_ecc_uncorrected_errors_total", 0, "0"), measured("vigil_gpu_row_remap_pending", 0, "0"),
			measured("vigil_gpu_memory_total_bytes", 100, "0"), measured("vigil_gpu_memory_used_bytes", 94, "0"),
		}, map[string]Status{"gpu ecc 0": Ok, "gpu remap pending 0": Ok, "gpu memory 0": Ok}},
		"ports": {[]metric.Sample{measured("vigil_fabric_port_state", 4, "mlx5_0", "1"), measured("vigil_fabric_port_state", 1, "mlx5_1", "1")},
			map[string]Status{"port mlx5_0 1": Ok, "port mlx5_1 1": Warn}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, judged(tc.samples...)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNeitherUnsupportedNorUnknownIsHealthy(t *testing.T) {
	for status, want := range map[collect.Status]struct {
		is   Status
		exit [2]int // lenient and strict
	}{
		collect.Ok:          {Ok, [2]int{0, 0}},
		collect.Unsupported: {Unsupported, [2]int{0, 0}},
		collect.Unknown:     {Unknown, [2]int{0, 1}},
		collect.Stuck:       {Fail, [2]int{2, 2}},
	} {
		report := Judge(Defaults(), []collect.Result{{Name: "nvml", Status: status, Err: errors.New("no return within 2s\nat line 5")}}, nil)
		c := report.Checks[0]
		if c.Status != want.is || report.ExitCode(false) != want.exit[0] || report.ExitCode(true) != want.exit[1] {
			t.Errorf("%s: check %+v, exit codes %d and %d", status, c, report.ExitCode(false), report.ExitCode(true))
		}
		if status != collect.Ok && c.What != "no return within 2s" {
			t.Errorf("%s: what %q", status, c.What)
		}
	}
}

func TestFaultsAreCountedTogether(t *testing.T) {
	xid := &commonv1.NodeFault{Kind: commonv1.FaultKind_FAULT_KIND_XID, Code: 79, Device: "0000:0f:00.0", Title: "GPU has fallen off the bus",
		Advice: "replace", Severity: commonv1.FaultSeverity_FAULT_SEVERITY_CRITICAL}
	oom := &commonv1.NodeFault{Kind: commonv1.FaultKind_FAULT_KIND_OOM_KILL, Message: "Killed process 7", Severity: commonv1.FaultSeverity_FAULT_SEVERITY_WARNING}
	note := &commonv1.NodeFault{Kind: commonv1.FaultKind_FAULT_KIND_XID, Code: 13, Severity: commonv1.FaultSeverity_FAULT_SEVERITY_INFO}
	report := Judge(Defaults(), nil, []*commonv1.NodeFault{oom, xid, xid, xid, note})
	want := []Check{
		{"fault xid 79 0000:0f:00.0", Fail, "GPU has fallen off the bus (3 times since the machine started)", "replace"},
		{"fault oom_kill", Warn, "Killed process 7", ""},
		{"fault xid 13", Ok, "", ""},
	}
	if diff := cmp.Diff(want, report.Checks); diff != "" {
		t.Error(diff)
	}
	if report.Status != Fail {
		t.Errorf("status %s", report.Status)
	}
}

func TestReportsAreShown(t *testing.T) {
	report := Judge(Defaults(), []collect.Result{{Name: "host", Status: collect.Ok, Samples: []metric.Sample{
		measured("vigil_host_disk_total_bytes", 100, "/"), measured("vigil_host_disk_available_bytes", 4, "/")}}}, nil)
	report.Node, report.Time = "n1", time.Unix(1_800_000_000, 0).UTC()
	var table, document bytes.Buffer
	if err := errors.Join(report.Table(&table), report.JSON(&document)); err != nil {
		t.Fatal(err)
	}
	want := `CHECK           STATUS  WHAT       ADVICE
disk /          warn    96 % used  free space
collector host  ok      2 series   

node n1: warn
`
	if diff := cmp.Diff(want, table.String()); diff != "" {
		t.Error(diff)
	}
	var back Report
	if err := json.Unmarshal(document.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(report, back); diff != "" || !strings.Contains(document.String(), `"status": "warn"`) {
		t.Error(diff)
	}
}

func TestConfigCheck(t *testing.T) {
	wrong := 0
	Config{CPUBusyRatio: 1.1}.Check(func(string, string, ...any) { wrong++ })
	if wrong != 6 {
		t.Errorf("%d mistakes; want 6", wrong)
	}
	Defaults().Check(func(key, format string, _ ...any) { t.Errorf("defaults: %s %s", key, format) })
}
