package kernel

import commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"

// Known is what is known of a number of the driver. The facts are from NVIDIA's
// public list of XID errors and from what operators of large clusters have
// written about them; the words are ours.
type Known struct {
	Title    string
	Advice   string // whose fault it is, mostly, and what to do
	Severity commonv1.FaultSeverity
}

// Whose fault it is, as advice begins.
const (
	byProgram  = "Mostly the program's own fault. "
	byHardware = "Mostly the hardware. "
	byDriver   = "Mostly the driver or its firmware. "
	byLink     = "Mostly the link: NVLink, its cable, bridge or switch. "
	byPlace    = "Mostly where the GPU is: power, cooling, slot or board. "
	asFollower = "Follows from another error: look for the one before it. "
)

// What to do, as advice goes on.
const (
	debug      = "Run the program with compute-sanitizer; when it shows on one GPU only, whatever the program, reset that GPU and test it."
	reset      = "End what runs on the GPU and reset it (nvidia-smi --gpu-reset) or restart the node; when it repeats, have the GPU replaced."
	restart    = "Take the node out of service and restart it; when it repeats, have the GPU replaced."
	replace    = "Take the node out of service, and have the GPU replaced."
	watch      = "Nothing at once; count how often it comes."
	seat       = "Drain the node, power it off and on, and reseat the GPU; when it repeats, have GPU and slot tested."
	fieldTest  = "Drain the node and run the vendor's field diagnostics."
	fabric     = "Reset the GPUs and restart the fabric manager; when it repeats, have cables, bridges and the switch tested."
	update     = "Restart the job; when it repeats, update driver and firmware, and restart the node."
	resetPoint = "Reset the GPU at the next good moment: rows wait to be remapped."
)

// Xid gives what is known of an XID. A number that is not in the list is a
// warning with the advice to look it up.
func Xid(code int32) Known {
	switch code {
	case 8:
		return Known{"GPU stopped processing", byProgram + debug, warning}
	case 6, 11:
		return Known{"Invalid or corrupted command stream", byProgram + debug, warning}
	case 12:
		return Known{"The driver failed to handle an exception", byDriver + update, warning}
	case 13:
		return Known{"Exception in a kernel of the program", byProgram + debug, info}
	case 31:
		return Known{"A kernel read or wrote an address that is not its own", byProgram + debug, info}
	case 32:
		return Known{"Invalid or corrupted command buffer", byDriver + update, warning}
	case 38:
		return Known{"Driver firmware error", byDriver + update, warning}
	case 43:
		return Known{"GPU stopped processing for a program", byProgram + "The program was ended, others go on. " + debug, info}
	case 44:
		return Known{"Fault during a context switch", byHardware + reset, warning}
	case 45:
		return Known{"Work of a program was thrown away", asFollower + "It comes when a program ends while its work still runs.", info}
	case 46:
		return Known{"GPU does not answer its driver", byHardware + reset, critical}
	case 48:
		return Known{"Memory error that ECC could not correct", byHardware + reset, critical}
	case 54:
		return Known{"Auxiliary power is not connected", byPlace + seat, critical}
	case 57, 58:
		return Known{"The GPU's link to its memory is not stable", byHardware + fieldTest, critical}
	case 61, 62:
		return Known{"The GPU's own controller has halted", byHardware + restart, critical}
	case 63:
		return Known{"A row of memory is to be remapped, or a page was retired", byHardware + resetPoint, warning}
	case 64:
		return Known{"A row of memory could not be remapped, or a page not retired", byHardware + replace, critical}
	case 65:
		return Known{"Video encoder exception", byDriver + update, warning}
	case 68:
		return Known{"Video processor exception", byDriver + update, warning}
	case 69:
		return Known{"Graphics engine class error", byProgram + debug, warning}
	}
	return laterXid(code)
}

// laterXid is the rest of the list, those that came with Volta and after.
func laterXid(code int32) Known {
	switch code {
	case 74:
		return Known{"NVLink error", byLink + fabric, critical}
	case 78:
		return Known{"Virtual GPU could not be started", byDriver + update, warning}
	case 79:
		return Known{"GPU has fallen off the bus", byPlace + seat, critical}
	case 80:
		return Known{"Corrupted data sent to the GPU", byHardware + fieldTest, warning}
	case 92:
		return Known{"Many single-bit memory errors", byHardware + fieldTest, warning}
	case 94:
		return Known{"Memory error that was contained to one program", byHardware + "The program is lost, others may go on. " + resetPoint, critical}
	case 95:
		return Known{"Memory error that was not contained", byHardware + "Nothing that ran on the GPU can be trusted. " + reset, critical}
	case 109:
		return Known{"Context switch did not end in time", byProgram + reset, critical}
	case 110:
		return Known{"Security fault", byHardware + restart, critical}
	case 119, 120:
		return Known{"The GPU's system processor does not answer, or has failed", byDriver + restart, critical}
	case 121:
		return Known{"Corrected error on the chip-to-chip link", byHardware + watch, info}
	case 122, 123:
		return Known{"The GPU's flash memory could not be read or written", byHardware + restart, warning}
	case 136:
		return Known{"NVLink could not be trained", byLink + fabric, critical}
	case 137:
		return Known{"An access over NVLink failed", asFollower + byProgram + debug, warning}
	case 140:
		return Known{"Memory error that ECC could not correct, seen by no program", byHardware + reset, critical}
	case 143:
		return Known{"GPU could not be started", byHardware + restart, critical}
	case 144, 145, 146, 147, 148, 149, 150:
		return Known{"NVLink error (fifth generation)", byLink + fabric, critical}
	case 151:
		return Known{"Key rotation failed", byDriver + restart, critical}
	case 154:
		return Known{"The GPU asks for an action before it can go on", asFollower + "The message names the action: reset the GPU, restart the node, or drain and reset.", critical}
	case 155:
		return Known{"NVLink error that its software reports", byLink + fabric, critical}
	case 156:
		return Known{"A resource was retired", byHardware + resetPoint, warning}
	case 157:
		return Known{"A resource could not be retired", byHardware + replace, critical}
	case 158:
		return Known{"A part of the GPU did not answer in time", byHardware + restart, critical}
	case 160:
		return Known{"A memory channel is to be retired", byHardware + resetPoint, warning}
	case 161:
		return Known{"A memory channel could not be retired", byHardware + replace, critical}
	}
	return Known{"Error of the NVIDIA driver that is not in our list", "Look the number up in NVIDIA's list of XID errors.", warning}
}

// Sxid gives what is known of an SXID, of which the driver says itself whether
// it is fatal.
func Sxid(code int32, fatal bool) Known {
	k := Known{"NVSwitch: error that is not in our list", byLink + watch, info}
	switch { // by part of the switch, as NVIDIA's guide to the fabric manager groups them
	case code == 20034:
		k.Title = "NVSwitch: a link failed"
	case code == 20001:
		k.Title = "NVSwitch: packets were sent again on a link"
	case code == 22013, code == 10001, code == 10003, code >= 14017 && code <= 14019:
		k.Title = "NVSwitch: error within the switch"
	case code >= 11001 && code <= 11099:
		k.Title = "NVSwitch: error of a packet that came in"
	case code >= 12001 && code <= 12099:
		k.Title = "NVSwitch: error of a packet on its way out"
	case code >= 19001 && code <= 19099:
		k.Title = "NVSwitch: error of a link's transactions"
	case code >= 24001 && code <= 24099:
		k.Title = "NVSwitch: a packet was lost track of"
	}
	if fatal {
		k.Advice, k.Severity = byLink+"Every program that uses the fabric has failed. "+fabric, critical
	}
	return k
}
