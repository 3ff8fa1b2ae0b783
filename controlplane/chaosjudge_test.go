package controlplane_test

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vigil-ml/vigil/controlplane"
	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/controlplane/detect/profile"
	"github.com/vigil-ml/vigil/controlplane/fleet"
	"github.com/vigil-ml/vigil/controlplane/incident"
	"github.com/vigil-ml/vigil/controlplane/pipeline"
	"github.com/vigil-ml/vigil/controlplane/routing"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/testkit"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// counts is what the test prints.
type counts struct {
	acknowledged, stored, lost, doubled int
	runs, findings, incidents           int
	rows, firing, resolved, repeats     int // notifications: rows of the outbox, incidents told of, and told more than once
	commands, sessions                  int
}

// judge compares what is there with what was sent, and with what an undisturbed
// control plane makes of it.
func (c *chaos) judge(records *store.Store) counts {
	c.t.Helper()
	var n counts
	frames := c.frames(&n)
	was := recordsOf(c.t, records)
	is := recordsOf(c.t, c.undisturbed(frames))
	for _, part := range []string{"runs", "attempts", "findings", "incidents", "timeline", "notifications", "commands"} {
		if diff := gocmp.Diff(is[part], was[part], protocmp.Transform()); diff != "" {
			c.t.Errorf("%s (-undisturbed +disturbed):\n%.4000s", part, diff)
		}
	}
	c.tally(records, &n)
	for _, r := range c.replicas {
		if aborted := r.logged(c.t, "SQLSTATE 25P02"); aborted > 0 {
			c.t.Errorf("%s went on in a transaction that had failed %d times: an error of the store was dropped", r.api, aborted)
		}
	}
	c.t.Logf("killed: %d replicas, %d NATS servers; sessions: %d", c.killedReplicas, c.killedServers, n.sessions)
	c.t.Logf("frames: %d acknowledged, %d stored, %d lost, %d doubled", n.acknowledged, n.stored, n.lost, n.doubled)
	c.t.Logf("runs: %d; findings: %d; incidents: %d, told that they fire: %d, that they are over: %d; notifications: %d rows, %d deliveries repeated",
		n.runs, n.findings, n.incidents, n.firing, n.resolved, n.rows, n.repeats)
	c.t.Logf("commands: %d, each at its agent", n.commands)
	if n.lost+n.doubled > 0 || n.firing != n.incidents || n.resolved != n.incidents || n.incidents == 0 {
		c.t.Error("something was lost, doubled, or not told of")
	}
	return n
}

// frames reads the whole bus and compares it with what the agents sent.
func (c *chaos) frames(n *counts) []bus.Delivery {
	c.t.Helper()
	b, err := bus.Open(c.t.Context(), busConfig(c), bus.Deps{Log: testkit.Logger(c.t), Metrics: prometheus.NewRegistry()})
	if err != nil {
		c.t.Fatal(err)
	}
	defer b.Close()
	for _, a := range c.agents {
		n.acknowledged += int(a.acked)
		n.sessions += a.sessions
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	var all []bus.Delivery
	stored := map[string]int{}
	err = b.Consume(ctx, 1, func(_ context.Context, batch []bus.Delivery) error {
		for _, d := range batch {
			all = append(all, d)
			if !d.Own {
				stored[fmt.Sprint(d.Node, "/", d.Position.GetSequence())]++
			}
		}
		if len(stored) >= n.acknowledged {
			cancel()
		}
		return nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
	n.stored = len(stored)
	for _, a := range c.agents {
		for sequence := range a.acked {
			if stored[fmt.Sprint(a.node, "/", sequence+1)] == 0 {
				n.lost++
			}
		}
	}
	for _, times := range stored {
		n.doubled += times - 1
	}
	return all
}

func busConfig(c *chaos) bus.Config { return chaosConfig(c).Bus }

func chaosConfig(c *chaos) controlplane.Config {
	config := controlplane.Defaults()
	if err := conf.Decode("chaos.yaml", []byte(c.config), &config); err != nil {
		c.t.Fatal(err)
	}
	return config
}

// oneReader hands over frames and then says so.
type oneReader struct {
	frames []bus.Delivery
	done   func()
}

// Consume hands over what lies behind a place.
func (r *oneReader) Consume(ctx context.Context, from uint64, handle func(context.Context, []bus.Delivery) error) error {
	for chunk := range slices.Chunk(r.frames, 64) {
		if chunk[0].Sequence < from {
			continue
		}
		if err := handle(ctx, chunk); err != nil {
			return err
		}
	}
	r.done()
	<-ctx.Done()
	return nil
}

// undisturbed is the records of one control plane, on SQLite, that reads all
// frames in one go.
func (c *chaos) undisturbed(frames []bus.Delivery) *store.Store {
	c.t.Helper()
	log, tracer, config := slog.New(slog.DiscardHandler), noop.NewTracerProvider().Tracer(""), chaosConfig(c)
	s, err := store.Open(c.t.Context(), store.Config{Path: filepath.Join(c.t.TempDir(), "calm.db")}, store.Deps{Log: log})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = s.Close() })
	plan, err := config.Alerting.Plan([]string{"hook"})
	if err != nil {
		c.t.Fatal(err)
	}
	profiles, err := profile.New(config.Detection)
	if err != nil {
		c.t.Fatal(err)
	}
	nodes := fleet.New(config.Fleet, fleet.Deps{Store: s, Log: log, Metrics: prometheus.NewRegistry(), Tracer: tracer, Clock: time.Now})
	engine := incident.New(config.Incident, incident.Deps{
		Router: routing.New(routing.Deps{Plan: plan, Store: s, Clock: time.Now, Log: log, Metrics: prometheus.NewRegistry()}),
		Save:   nodes.RequestCheckpoint, Judge: nodes.Judge, Store: s, Clock: time.Now, Log: log, Tracer: tracer, Metrics: prometheus.NewRegistry(),
	})
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	p := pipeline.New(pipeline.Deps{
		Bus: &oneReader{frames, cancel}, Store: s, Incidents: engine, Clock: time.Now, Log: log, Tracer: tracer, Metrics: prometheus.NewRegistry(),
		NewBank: func() pipeline.Bank { return detect.NewBankOf(profiles.Choose).WatchNodes(profiles.Nodes()) },
	})
	if err := p.Run(ctx); err != nil {
		c.t.Fatal(err)
	}
	if context.Cause(ctx) == context.DeadlineExceeded {
		c.t.Fatalf("the undisturbed control plane is not done: %v", p.Healthy())
	}
	return s
}

// recordsOf gives the records that follow from the frames alone: without the
// times at which the control plane did something, and in an order that does not
// depend on them.
func recordsOf(t *testing.T, s *store.Store) map[string][]any {
	t.Helper()
	all := map[string][]any{}
	err := s.View(t.Context(), func(tx *store.Tx) error {
		runs, err := tx.Runs(0)
		slices.SortFunc(runs, func(a, b *controlv1.Run) int { return cmp.Compare(a.GetRunId(), b.GetRunId()) })
		for _, run := range runs {
			all["runs"] = append(all["runs"], run)
			attempts, err := tx.Attempts(run.GetRunId())
			if err != nil {
				return err
			}
			for _, attempt := range attempts {
				all["attempts"] = append(all["attempts"], attempt)
			}
		}
		return cmpErr(err, findingsOf(tx, all), incidentsOf(tx, all))
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func findingsOf(tx *store.Tx, all map[string][]any) error {
	findings, err := tx.Findings("", "", 0)
	slices.SortFunc(findings, func(a, b *controlv1.FindingRecord) int {
		return cmp.Compare(a.GetFinding().GetFindingId(), b.GetFinding().GetFindingId())
	})
	for _, f := range findings {
		f.Finding.Created = nil
		all["findings"] = append(all["findings"], f)
	}
	return err
}

// fromFrames are the entries of a timeline that frames alone lead to.
var fromFrames = []string{"opened", "finding", "restart", "resolved", "reopened"}

func incidentsOf(tx *store.Tx, all map[string][]any) error {
	incidents, err := tx.Incidents("", 0)
	if err != nil {
		return err
	}
	slices.SortFunc(incidents, func(a, b *controlv1.Incident) int { return cmp.Compare(a.GetIncidentId(), b.GetIncidentId()) })
	for _, i := range incidents {
		record, err := tx.IncidentRecord(i.GetIncidentId())
		if err != nil {
			return err
		}
		whole, err := tx.Incident(i.GetIncidentId())
		if err != nil {
			return err
		}
		all["incidents"] = append(all["incidents"], fmt.Sprint(i.GetIncidentId(), i.GetKind(), i.GetSeverity(), i.GetState(), i.GetRunId(),
			" attempt ", record.Attempt, " onset ", record.OnsetStep, " findings ", record.Findings, " times ", record.Occurrences))
		for _, entry := range whole.GetTimeline() {
			if slices.Contains(fromFrames, entry.GetAction()) {
				all["timeline"] = append(all["timeline"], i.GetIncidentId()+" "+entry.GetAction()+" "+entry.GetText())
			}
		}
		var told []string
		for _, n := range whole.GetNotifications() {
			told = append(told, fmt.Sprint(i.GetIncidentId(), n.GetReceiver(), n.GetIncidentState()))
		}
		slices.Sort(told)
		all["notifications"] = append(all["notifications"], told)
		checkpoints, err := tx.Checkpoints(i.GetRunId(), 0)
		if err != nil {
			return err
		}
		for _, checkpoint := range checkpoints {
			commands, err := tx.CommandsOf(checkpoint.GetCheckpointId())
			if err != nil {
				return err
			}
			for _, command := range commands {
				all["commands"] = append(all["commands"], command.IdempotencyKey)
			}
		}
	}
	return nil
}

// tally counts incidents, who was told of them, and commands.
func (c *chaos) tally(records *store.Store, n *counts) {
	c.t.Helper()
	err := records.View(c.t.Context(), func(tx *store.Tx) error {
		runs, err := tx.Runs(0)
		findings, err2 := tx.Findings("", "", 0)
		incidents, err3 := tx.Incidents("", 0)
		n.runs, n.findings, n.incidents = len(runs), len(findings), len(incidents)
		for _, i := range incidents {
			firing, resolved := c.told.count(i)
			n.firing, n.resolved = n.firing+min(firing, 1), n.resolved+min(resolved, 1)
			whole, err := tx.Incident(i.GetIncidentId())
			if err != nil {
				return err
			}
			n.rows += len(whole.GetNotifications())
			n.repeats += max(0, firing+resolved-len(whole.GetNotifications()))
		}
		return cmpErr(err, err2, err3)
	})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, key := range recordsOf(c.t, records)["commands"] {
		n.commands++
		reached := 0
		for _, a := range c.agents {
			reached += min(1, a.commands[key.(string)])
		}
		if reached != 1 {
			c.t.Errorf("command %s reached %d agents", key, reached)
		}
	}
}
