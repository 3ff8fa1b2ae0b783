package protocol

import commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"

// OfNode tells whether an event is a node's own, sent by its agent: it belongs
// to no run, and its run_id is empty.
func OfNode(event *commonv1.Event) bool {
	switch event.GetBody().(type) {
	case *commonv1.Event_NodeReport, *commonv1.Event_NodeFault, *commonv1.Event_KeyUsed:
		return true
	}
	return false
}

// OfEither tells whether an event may be of a run or of a node itself: what
// programs say of themselves, which no detector looks at.
func OfEither(event *commonv1.Event) bool {
	switch event.GetBody().(type) {
	case *commonv1.Event_Telemetry, *commonv1.Event_Logs:
		return true
	}
	return false
}
