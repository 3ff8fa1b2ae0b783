package replay

import (
	"bytes"

	"google.golang.org/protobuf/encoding/protojson"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// isEvent tells whether a line is an event as the product writes it, the JSON of
// a vigil.common.v1.Event, rather than a row of a trace. Events of nodes come in
// this form only.
func isEvent(text []byte) bool {
	return bytes.Contains(text, []byte(`"eventId"`)) || bytes.Contains(text, []byte(`"event_id"`))
}

// eventRow reads such a line. An event of a newer agent may have what this
// program does not know.
func eventRow(text []byte) (Row, error) {
	event := &commonv1.Event{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(text, event); err != nil {
		return Row{}, err
	}
	t := event.GetTime()
	return Row{Time: float64(t.GetSeconds()) + float64(t.GetNanos())/1e9, Event: event}, nil
}
