package xid

import (
	"strings"
	"testing"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

func TestCatalogueIsWellFormed(t *testing.T) {
	last := int32(0)
	for _, e := range All() {
		if e.Number <= last {
			t.Errorf("XID %d stands behind %d", e.Number, last)
		}
		last = e.Number
		if e.Title == "" || strings.HasSuffix(e.Title, ".") {
			t.Errorf("XID %d: title %q", e.Number, e.Title)
		}
		if !strings.HasSuffix(e.Advice, ".") {
			t.Errorf("XID %d: the advice is no sentence: %q", e.Number, e.Advice)
		}
		if e.Severity == commonv1.FaultSeverity_FAULT_SEVERITY_UNSPECIFIED || e.Cause == "" {
			t.Errorf("XID %d has severity %v and cause %q", e.Number, e.Severity, e.Cause)
		}
	}
}

// TestKnownOnes holds those that operators act on, so that a slip of the pen
// in the table shows.
func TestKnownOnes(t *testing.T) {
	for number, want := range map[int32]struct {
		severity commonv1.FaultSeverity
		cause    Cause
		says     string
	}{
		13:  {warning, Application, "invalid"},
		31:  {warning, Application, "page fault"},
		43:  {info, Application, "stopped"},
		45:  {info, Unclear, "cleanup"},
		48:  {critical, Hardware, "Double-bit"},
		63:  {warning, Hardware, "remapped"},
		64:  {critical, Hardware, "could not"},
		74:  {critical, Hardware, "NVLink"},
		79:  {critical, Hardware, "off the bus"},
		92:  {warning, Hardware, "single-bit"},
		94:  {critical, Hardware, "Contained"},
		95:  {critical, Hardware, "Uncontained"},
		119: {critical, Driver, "does not answer"},
		154: {critical, Unclear, "recovery"},
	} {
		e := Lookup(number)
		if e.Severity != want.severity || e.Cause != want.cause || !strings.Contains(e.Title, want.says) {
			t.Errorf("XID %d: %+v", number, e)
		}
	}
}

func TestUnknownNumberIsNotHealthy(t *testing.T) {
	for _, number := range []int32{0, -1, 14, 9999} {
		e := Lookup(number)
		if e.Number != number || e.Severity != warning || e.Advice == "" {
			t.Errorf("XID %d: %+v", number, e)
		}
	}
}

func TestFault(t *testing.T) {
	f := Fault(79, "nvml", "00000000:3B:00.0", "XID 79")
	if f.Kind != commonv1.FaultKind_FAULT_KIND_XID || f.Code != 79 || f.Device != "0000:3b:00.0" ||
		f.Source != "nvml" || f.Message != "XID 79" || f.Severity != critical {
		t.Errorf("%v", f)
	}
}

func TestOneDeviceHasOneName(t *testing.T) {
	for given, want := range map[string]string{
		"PCI:0000:3b:00":    "0000:3b:00.0", // as the driver writes to the kernel log
		"0000:3b:00":        "0000:3b:00.0",
		"00000000:3B:00.0":  "0000:3b:00.0", // as NVML writes
		"0000:3b:00.0":      "0000:3b:00.0",
		"3b:00.1":           "0000:3b:00.1",
		"00010000:00:00.0":  "10000:00:00.0",
		"":                  "",
		"mlx5_0":            "mlx5_0",
		"0000:zz:00.0":      "0000:zz:00.0",
		"a:b:c:d":           "a:b:c:d",
		"100000000:00:00.0": "100000000:00:00.0",
	} {
		if got := Device(given); got != want {
			t.Errorf("Device(%q) = %q, want %q", given, got, want)
		}
	}
}
