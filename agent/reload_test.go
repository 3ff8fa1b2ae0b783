package agent

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vigil-ml/vigil/agent/collect"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/metric"
	"github.com/vigil-ml/vigil/internal/telemetry"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

// written reads a configuration as a user writes it.
func written(t *testing.T, text string) Config {
	t.Helper()
	config := Defaults()
	if err := conf.Decode("agent.yaml", []byte(text), &config); err != nil {
		t.Fatal(err)
	}
	return config
}

// reloading is an agent's reloader with collectors that do not run.
func reloading(t *testing.T, text string) (*reloader, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	config := written(t, text)
	log, setLevel := telemetry.LeveledLogger(&out, config.Log)
	r := newReloader(&agent{config: config, log: log, metrics: prometheus.NewRegistry()}, config, setLevel)
	r.deps = collect.Deps{Log: log}
	sources, err := config.sources(r.deps)
	if err != nil {
		t.Fatal(err)
	}
	r.collectors, err = collect.NewRunner(sources, collect.RunnerDeps{
		Record: func(context.Context, []metric.Sample) error { return nil },
		Log:    log, Metrics: prometheus.NewRegistry(), Clock: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return r, &out
}

func TestReloadChangesCollectorsAndTheLogsLevel(t *testing.T) {
	r, out := reloading(t, "log: {level: info}")
	r.take(written(t, "log: {level: debug}\ncollectors: {nvml: {off: true}, host: {interval: 1s}}"))
	statuses := r.collectors.Statuses()
	if _, on := statuses["nvml"]; on || statuses["host"] == "" {
		t.Errorf("collectors %v", statuses)
	}
	if !r.log.Enabled(t.Context(), slog.LevelDebug) {
		t.Error("the level stayed")
	}
	if strings.Contains(out.String(), "restart") {
		t.Errorf("nothing waits for a restart:\n%s", out)
	}
	r.take(written(t, ""))
	if _, on := r.collectors.Statuses()["nvml"]; !on || r.log.Enabled(t.Context(), slog.LevelDebug) {
		t.Error("back again changed nothing")
	}
}

// What the control plane sets lies over what the user writes, also after a
// reload, until it sets something else.
func TestControlPlaneSetsCollectors(t *testing.T) {
	r, out := reloading(t, "collectors: {tasks: {off: true}}")
	on := func(kind string) bool { return r.collectors.Statuses()[kind] != "" }
	yes, no := true, false
	r.set(&agentv1.Settings{Collectors: map[string]*agentv1.CollectorSettings{
		"nvml": {Off: &yes}, "tasks": {Off: &no}, "host": {Interval: durationpb.New(time.Second)}, "of-tomorrow": {Off: &yes},
	}})
	if on("nvml") || !on("tasks") || !on("host") {
		t.Errorf("collectors %v", r.collectors.Statuses())
	}
	r.take(written(t, "collectors: {nvml: {off: false}, fabric: {off: true}}"))
	if on("nvml") || !on("tasks") || on("fabric") {
		t.Errorf("after a reload: collectors %v", r.collectors.Statuses())
	}
	config := overlay(r.latest, r.settings.Load())
	if d := config.Collectors["host"].Interval; d != time.Second {
		t.Errorf("host's interval is %v", d)
	}
	said := strings.Count(out.String(), "settings are taken")
	r.set(r.settings.Load())
	if strings.Count(out.String(), "settings are taken") != said {
		t.Error("the same settings were taken again")
	}
	r.set(&agentv1.Settings{Collectors: map[string]*agentv1.CollectorSettings{"host": {Interval: durationpb.New(-time.Second)}}})
	r.set(nil)
	if got := testutil.ToFloat64(r.taken.WithLabelValues("taken")); got != 3 {
		t.Errorf("%v settings were taken, want 3", got)
	}
	if !on("nvml") || on("fabric") {
		t.Errorf("without settings: collectors %v", r.collectors.Statuses())
	}
}

func TestReloadSaysWhatWaitsForARestart(t *testing.T) {
	r, out := reloading(t, "")
	r.take(written(t, "uplink: {address: '127.0.0.1:9'}\nlisten: 127.0.0.1:0\nlog: {format: json}\nspool: {max_bytes: 99999999}"))
	if !strings.Contains(out.String(), `keys="listen, uplink, spool, log.format"`) {
		t.Errorf("log:\n%s", out)
	}
	if r.config.Uplink.Address != Defaults().Uplink.Address {
		t.Error("the address changed")
	}
}

// A mistake that only building a collector shows changes nothing.
func TestReloadWithAMistakeKeepsTheOld(t *testing.T) {
	r, out := reloading(t, "collectors: {nvml: {off: true}}")
	r.take(written(t, "log: {level: error}\ncollectors: {host: {settings: {proc: /nowhere}}}"))
	if _, on := r.collectors.Statuses()["nvml"]; on || !r.log.Enabled(t.Context(), slog.LevelInfo) {
		t.Error("half of it was taken")
	}
	if !strings.Contains(out.String(), "the old one stays") || !strings.Contains(out.String(), "/nowhere") {
		t.Errorf("log:\n%s", out)
	}
}

// Every part of the configuration is either changed or said to wait.
func TestEveryPartIsComparedByItsKey(t *testing.T) {
	if got := waits(Defaults(), Defaults()); len(got) > 0 {
		t.Errorf("the same differs in %q", got)
	}
	if got := waits(Config{}, Defaults()); !slices.Contains(got, "vault") || !slices.Contains(got, "state_dir") || slices.Contains(got, "") {
		t.Errorf("differ in %q", got)
	}
}
