package log_test

import (
	"bytes"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/alerting/notify/log"
	"github.com/vigil-ml/vigil/alerting/notify/notifytest"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func TestNotify(t *testing.T) {
	warning := notifytest.Firing()
	warning.Incident = &controlv1.Incident{
		IncidentId: "inc-2", RunId: "r", Kind: "plateau", Summary: "It stands still.", Severity: commonv1.Severity_SEVERITY_WARNING,
	}
	summary := notifytest.Firing().Incident.GetSummary()
	for name, test := range map[string]struct {
		delivery alert.Delivery
		want     string
	}{
		"critical": {notifytest.Firing(), `level=ERROR msg="` + summary +
			`" incident=inc-1 run=digits-7 kind=nonfinite state=firing node=gpu-07 rank=3 step=412` + "\n"},
		"resolved": {notifytest.Resolved(), `level=INFO msg="` + summary +
			`" incident=inc-1 run=digits-7 kind=nonfinite state=resolved node=gpu-07 rank=3 step=412 lasted="12.4 s"` + "\n"},
		"warning": {warning, `level=WARN msg="It stands still." incident=inc-2 run=r kind=plateau state=firing` + "\n"},
	} {
		var out bytes.Buffer
		handler := slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})
		n, err := log.New(log.Config{}, notify.Deps{Log: slog.New(handler)})
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Notify(t.Context(), test.delivery); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, out.String()); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}
