// Package xid says what the numbers of the NVIDIA driver's XID errors mean: a
// title, how bad it is, whose fault it is and what to do. The kernel log and
// NVML name an XID by its number alone.
//
// The meanings follow NVIDIA's public "XID Errors" guide and its catalogue of
// immediate actions; the words are our own.
package xid

import (
	"fmt"
	"strconv"
	"strings"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// Cause is where an XID usually comes from.
type Cause string

// The causes.
const (
	Application Cause = "application" // the program that used the GPU
	Driver      Cause = "driver"      // the driver or the GPU's firmware
	Hardware    Cause = "hardware"    // the GPU, its memory, its links or its power
	Unclear     Cause = "unclear"     // any of them
)

// Entry is what is known of one XID.
type Entry struct {
	Number   int32
	Title    string // for a person, without a full stop
	Severity commonv1.FaultSeverity
	Cause    Cause
	Advice   string // one or two sentences
}

// Lookup gives the entry of a number. One that is not in the catalogue is a
// warning that says so.
func Lookup(number int32) Entry {
	for _, e := range catalogue {
		if e.Number == number {
			return e
		}
	}
	return Entry{
		Number: number, Title: fmt.Sprintf("XID %d", number), Severity: warning, Cause: Unclear,
		Advice: "This XID is not in Vigil's catalogue. Look it up in NVIDIA's XID guide, and reset the GPU if it comes again.",
	}
}

// All gives the whole catalogue in order of numbers.
func All() []Entry { return append([]Entry(nil), catalogue...) }

// Fault makes the fault that a node reports for an XID. Source says who saw
// it, device is any notation of the GPU's PCI address, message is what was
// said, in the words of whoever said it.
func Fault(number int32, source, device, message string) *commonv1.NodeFault {
	e := Lookup(number)
	return &commonv1.NodeFault{
		Kind: commonv1.FaultKind_FAULT_KIND_XID, Code: number, Title: e.Title, Advice: e.Advice, Severity: e.Severity,
		Device: Device(device), Source: source, Message: message,
	}
}

// Device gives a PCI address in the kernel's notation, for instance
// "0000:3b:00.0". The driver leaves the function out of its messages, and NVML
// writes capitals and a domain of eight digits: one device must not have three
// names. What is no PCI address is given back as it is.
func Device(address string) string {
	text, _ := strings.CutPrefix(address, "PCI:")
	text, function, dotted := strings.Cut(text, ".")
	if !dotted {
		function = "0"
	}
	parts := strings.Split(text, ":")
	if len(parts) == 2 {
		parts = append([]string{"0"}, parts...)
	}
	if len(parts) != 3 {
		return address
	}
	var numbers [4]uint64
	for i, part := range append(parts, function) {
		n, err := strconv.ParseUint(part, 16, 32)
		if err != nil {
			return address
		}
		numbers[i] = n
	}
	return fmt.Sprintf("%04x:%02x:%02x.%x", numbers[0], numbers[1], numbers[2], numbers[3])
}
