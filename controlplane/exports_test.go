package controlplane

import (
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/controlplane/export"
	"github.com/vigil-ml/vigil/internal/fault"
)

// TestWhatExportersWant: a control plane says of itself what any of its exporters
// takes.
func TestWhatExportersWant(t *testing.T) {
	const search = "{name: search, kind: elastic, settings: {addresses: ['http://127.0.0.1:1']}}"
	for text, want := range map[string][3]bool{ // traces, logs, metrics
		"exports: []": {},
		"exports: [{name: a, kind: otlp, streams: [events, metrics], settings: {endpoint: '127.0.0.1:1', plaintext: true}}]": {false, false, true},
		"exports: [" + search + "]": {false, true, false},
		"exports: [" + search + ", {name: a, kind: otlp, streams: [traces], settings: {endpoint: '127.0.0.1:1', plaintext: true}}]": {true, true, false},
	} {
		config, err := decode(text)
		if err != nil {
			t.Fatal(err)
		}
		c := &controlPlane{config: config, metrics: prometheus.NewRegistry(), log: slog.New(slog.DiscardHandler)}
		c.exports = export.NewMetrics(c.metrics)
		if err := c.makeExporters(slog.New(slog.DiscardHandler)); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		wanted := c.wanted()
		if got := [3]bool{wanted.Traces, wanted.Logs, wanted.Metrics != nil}; got != want {
			t.Errorf("%s: wants %v, want %v", text, got, want)
		}
		if set := c.exporters(nil); len(set) != len(config.Exports) {
			t.Errorf("%s: %d runners", text, len(set))
		}
		c.closeExporters()
	}
	config, err := decode("exports: [" + search + ", " + search + "]")
	if err != nil {
		t.Fatal(err)
	}
	c := &controlPlane{config: config}
	if err := c.makeExporters(slog.New(slog.DiscardHandler)); !fault.Is(err, fault.Invalid) || c.made != nil {
		t.Errorf("two of one name: %v, %d are made", err, len(c.made))
	}
}
