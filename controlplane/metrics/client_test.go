package metrics

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
)

// TestPrometheusClient talks to the handler with Prometheus' own client, which
// posts forms.
func TestPrometheusClient(t *testing.T) {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	opened, err := api.NewClient(api.Config{Address: serve(t, fill(t)), RoundTripper: transport})
	if err != nil {
		t.Fatal(err)
	}
	client := promv1.NewAPI(opened)
	r := promv1.Range{Start: noon(), End: noon().Add(9 * time.Second), Step: 3 * time.Second}
	ranged, _, _, err := client.QueryRange(t.Context(), `vigil_host_disk_available_bytes{mount="/",node="b"}`, r)
	if err != nil {
		t.Fatal(err)
	}
	var values []float64
	for _, p := range ranged.(model.Matrix)[0].Values {
		values = append(values, float64(p.Value))
	}
	if diff := cmp.Diff([]float64{0, 3, 6, 9}, values); diff != "" {
		t.Error(diff)
	}
	names, _, _, err := client.LabelNames(t.Context(), nil, noon(), r.End)
	if diff := cmp.Diff(model.LabelNames{"__name__", "mount", "node"}, names); diff != "" || err != nil {
		t.Error(diff, err)
	}
	nodes, _, _, err := client.LabelValues(t.Context(), "node", []string{"vigil_host_load1"}, noon(), r.End)
	if diff := cmp.Diff(model.LabelValues{"a", "b"}, nodes); diff != "" || err != nil {
		t.Error(diff, err)
	}
	series, _, _, err := client.Series(t.Context(), []string{`{mount="/data"}`}, noon(), r.End)
	if err != nil || len(series) != 2 || series[1]["node"] != "b" {
		t.Errorf("Series = %v, %v", series, err)
	}
	_, _, _, err = client.Query(t.Context(), "sum(", noon())
	if e, ok := err.(*promv1.Error); !ok || e.Type != promv1.ErrBadData {
		t.Errorf("error %v, want one of kind bad_data", err)
	}
}
