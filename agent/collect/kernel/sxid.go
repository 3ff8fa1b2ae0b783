package kernel

import commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"

// sxid says what an SXID of an NVSwitch means, of which the driver says itself
// whether it is fatal. The numbers are grouped by part of the switch, as
// NVIDIA's guide to the fabric manager has them; the words are ours.
func sxid(code int32, fatal bool) (title, advice string, severity commonv1.FaultSeverity) {
	switch {
	case code == 20034:
		title = "NVSwitch: a link failed"
	case code == 20001:
		title = "NVSwitch: packets were sent again on a link"
	case code == 22013, code == 10001, code == 10003, code >= 14017 && code <= 14019:
		title = "NVSwitch: error within the switch"
	case code >= 11001 && code <= 11099:
		title = "NVSwitch: error of a packet that came in"
	case code >= 12001 && code <= 12099:
		title = "NVSwitch: error of a packet on its way out"
	case code >= 19001 && code <= 19099:
		title = "NVSwitch: error of a link's transactions"
	case code >= 24001 && code <= 24099:
		title = "NVSwitch: a packet was lost track of"
	default:
		title = "NVSwitch: error that is not in our list"
	}
	if fatal {
		return title, "Every program that uses the fabric has failed. Reset the GPUs and restart the fabric manager; " +
			"when it repeats, have cables, bridges and the switch tested.", critical
	}
	return title, "Nothing at once; count how often it comes.", info
}
