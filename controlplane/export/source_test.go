package export

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/store"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// TestOnlyWhatIsTakenIsConverted: what is of a stream that nobody takes is not even
// read; here that cannot be read at all.
func TestOnlyWhatIsTakenIsConverted(t *testing.T) {
	telemetry := func(signal commonv1.Signal) *commonv1.Telemetry {
		return &commonv1.Telemetry{Signal: signal, Otlp: []byte("not OTLP")}
	}
	events := []*commonv1.Event{
		{EventId: "step", Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: 1}}},
		{EventId: "lines", Body: &commonv1.Event_Logs{Logs: &commonv1.LogBatch{Records: []*commonv1.LogRecord{{Message: "a"}, {Message: "b"}}}}},
		{EventId: "spans", Body: &commonv1.Event_Telemetry{Telemetry: telemetry(commonv1.Signal_SIGNAL_TRACES)}},
		{EventId: "metrics", Body: &commonv1.Event_Telemetry{Telemetry: telemetry(commonv1.Signal_SIGNAL_METRICS)}},
	}
	for _, tc := range []struct {
		taken []string
		want  []string // ids of the documents
		wrong bool
	}{
		{[]string{StreamEvents}, []string{"step"}, false},
		{[]string{StreamLogs}, []string{"lines-0", "lines-1"}, false},
		{[]string{StreamEvents, StreamLogs}, []string{"step", "lines-0", "lines-1"}, false},
		{[]string{StreamTraces}, nil, true},
		{[]string{StreamMetrics, StreamEvents}, []string{"step"}, true},
		{nil, nil, false},
	} {
		takes := func(streams ...string) bool {
			return slices.ContainsFunc(streams, func(s string) bool { return slices.Contains(tc.taken, s) })
		}
		documents, err := eventDocuments(bus.Delivery{Message: bus.Message{Batch: &agentv1.EventBatch{Events: events}}}, takes)
		var got []string
		for _, d := range documents {
			got = append(got, d.ID)
			if !takes(d.Stream) {
				t.Errorf("%v: a document of %s", tc.taken, d.Stream)
			}
		}
		if diff := cmp.Diff(tc.want, got); diff != "" || (err != nil) != tc.wrong {
			t.Errorf("%v: %v (-want +got):\n%s", tc.taken, err, diff)
		}
		for kind, stream := range map[string]string{store.ExportFinding: StreamFindings, store.ExportIncident: StreamIncidents} {
			if of, err := recordDocuments(store.ExportRecord{Kind: kind, Body: []byte("none")}, takes); len(of) > 0 || err != nil {
				t.Errorf("%v: a %s that is not taken: %v, %v", tc.taken, kind, of, err)
			}
			if _, err := recordDocuments(store.ExportRecord{Kind: kind, Body: []byte("none")}, func(s ...string) bool { return s[0] == stream }); err == nil {
				t.Errorf("a %s that cannot be read is not told of", kind)
			}
		}
	}
}
