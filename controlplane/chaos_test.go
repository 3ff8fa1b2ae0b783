package controlplane_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/controlplane/audit"
	"github.com/vigil-ml/vigil/controlplane/people"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/envelope"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/testkit"
	"github.com/vigil-ml/vigil/internal/testkit/natscluster"
	"github.com/vigil-ml/vigil/internal/testkit/postgres"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const (
	replicas   = 3
	chaosNodes = 9
	partitions = 4
)

// chaosLength is how long members are killed: a short while, or as long as
// VIGIL_CHAOS says (make chaos-replicas).
func chaosLength(t *testing.T) time.Duration {
	text, ok := os.LookupEnv("VIGIL_CHAOS")
	if !ok {
		return 12 * time.Second
	}
	length, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return length
}

// chaos is an installation whose members are killed: three control planes on
// PostgreSQL and a NATS cluster of three, agents that make runs with incidents,
// and a receiver that keeps account.
type chaos struct {
	t        *testing.T
	config   string // what the replicas have in common
	storeURL string
	auditKey string // the file of the audit log's key
	nats     *natscluster.Cluster
	replicas []*replica
	agents   []*chaosAgent
	told     *receiver

	killedReplicas, killedServers int
}

// TestReplicas kills members of an installation, at random, under load. Nothing
// that was acknowledged is lost or doubled, every incident is told of, every
// command reaches its agent, and the records are those of a control plane that
// read the same frames and that nobody disturbed.
func TestReplicas(t *testing.T) {
	length := chaosLength(t)
	c := startChaos(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	load := life.NewGroup(ctx)
	until := time.Now().Add(length)
	for _, a := range c.agents {
		load.Go("agent", func(ctx context.Context) error { a.run(ctx); return nil })
	}
	trained := life.NewGroup(ctx)
	for _, a := range c.agents {
		trained.Go("train", func(ctx context.Context) error { a.train(ctx, until, 60*time.Millisecond); return nil })
	}
	c.disturb(until)
	if err := trained.Wait(); err != nil {
		t.Error(err)
	}
	records := openRecords(t, c)
	c.settle(records)
	cancel()
	_ = load.Wait()
	c.judge(records)
}

func startChaos(t *testing.T) *chaos {
	pg := postgres.Start(t)
	c := &chaos{t: t, nats: natscluster.Start(t, 3), storeURL: pg.URL(t), told: newReceiver(t)}
	// Replicas have one authority and one audit log: the first makes their keys.
	keys := t.TempDir()
	files := []string{filepath.Join(keys, "ca.pem"), filepath.Join(keys, "ca.key"), filepath.Join(keys, "audit.key")}
	c.auditKey = files[2]
	c.config = fmt.Sprintf(`store: {url: %q}
authority: {cert_file: %q, key_file: %q}
audit: {key_file: %q}
bus: {url: %q, partitions: %d, max_bytes: 268435456}
replicas: {lost_after: 1500ms}
ingest: {heartbeat_interval: 500ms, reconnect_after: 100ms}
fleet: {record_interval: 500ms, lost_after: 1m}
log: {level: info}
%s`, c.storeURL, files[0], files[1], files[2], c.nats.URL(), partitions, c.alerting())
	var targets []string
	for i := range replicas {
		r := newReplica(t, fmt.Sprint("r", i), c.config)
		r.run(t)
		testkit.Eventually(t, "the keys", func() bool {
			return !slices.ContainsFunc(files, func(path string) bool {
				_, err := os.Stat(path)
				return err != nil
			})
		})
		c.replicas = append(c.replicas, r)
		targets = append(targets, r.agents)
	}
	for i := range chaosNodes {
		c.agents = append(c.agents, newChaosAgent(t, fmt.Sprint("node-", i), targets))
	}
	return c
}

func (c *chaos) alerting() string {
	return fmt.Sprintf("alerting: {receivers: [{name: hook, webhook: {url: %q}}], storm: {after: 0, within: 10s}}\n", c.told.url)
}

// disturb kills a random replica or, each third time, a random NATS server every
// few seconds and starts it again, until the time is over; then all are there.
func (c *chaos) disturb(until time.Time) {
	for time.Now().Before(until) {
		time.Sleep(time.Second + rand.N(2*time.Second))
		if (c.killedReplicas+c.killedServers)%3 < 2 {
			r := c.replicas[rand.IntN(replicas)]
			r.kill()
			time.Sleep(rand.N(time.Second))
			r.run(c.t)
			c.killedReplicas++
			continue
		}
		i := rand.IntN(c.nats.Size())
		c.nats.Kill(i)
		time.Sleep(500*time.Millisecond + rand.N(time.Second))
		c.nats.Run(c.t, i)
		c.killedServers++
	}
}

// settle waits until everything that was begun is over.
func (c *chaos) settle(records *store.Store) {
	c.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		waits := c.waits(records)
		if waits == "" {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("two minutes after the end this is not over: %s", waits)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func (c *chaos) waits(records *store.Store) (waits string) {
	for _, a := range c.agents {
		if !a.settled() {
			return "frames of " + a.node + " are not acknowledged"
		}
	}
	err := records.View(c.t.Context(), func(tx *store.Tx) error {
		runs, err := tx.Runs(0)
		if err != nil {
			return err
		}
		if want := c.runs(); len(runs) != want {
			waits = fmt.Sprintf("%d of %d runs are known", len(runs), want)
		}
		for _, run := range runs {
			if run.GetEnded() == nil {
				waits = "run " + run.GetRunId() + " goes on"
			}
		}
		open, err := tx.AllOpen(0)
		if len(open) > 0 {
			waits = fmt.Sprintf("%d incidents are open, such as %s of %s", len(open), open[0].Incident.GetIncidentId(), open[0].Incident.GetRunId())
		}
		commands, err2 := tx.OpenCommands("")
		if len(commands) > 0 {
			waits = fmt.Sprintf("%d commands are open", len(commands))
		}
		waiting, dead, err3 := tx.Queued()
		if len(waiting)+len(dead) > 0 {
			waits = fmt.Sprintf("notifications wait: %v, are given up: %v", waiting, dead)
		}
		return cmpErr(err, err2, err3)
	})
	if err != nil {
		return err.Error()
	}
	return waits
}

// runs is how many runs the agents made.
func (c *chaos) runs() int {
	all := map[string]bool{}
	for _, a := range c.agents {
		for _, frame := range a.behind(0) {
			all[frame.GetEvents().GetRunId()] = true
		}
	}
	return len(all)
}

// openRecords opens what the replicas share, with their keys.
func openRecords(t *testing.T, c *chaos) *store.Store {
	t.Helper()
	config := audit.Defaults("")
	config.KeyFile = c.auditKey
	return openProtected(t, store.Config{URL: c.storeURL}, config)
}

// openProtected opens records with what opens those that are encrypted.
func openProtected(t *testing.T, where store.Config, with audit.Config) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), where, store.Deps{Log: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	log, err := audit.Open(t.Context(), with, audit.Deps{Store: s, Log: testkit.Logger(t), Metrics: prometheus.NewRegistry(), Clock: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := people.Open(t.Context(), envelope.Settings{}, people.Deps{Store: s, Audit: log, Log: testkit.Logger(t), Metrics: prometheus.NewRegistry(), Clock: time.Now}); err != nil {
		t.Fatal(err)
	}
	return s
}

// receiver is a webhook that counts what it is told: of each incident, how often
// that it fires and that it is over.
type receiver struct {
	url  string
	mu   sync.Mutex
	told map[string]map[string]int // by incident and status
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{told: map[string]map[string]int{}}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

// ServeHTTP takes a notification.
func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	var body struct {
		Alerts []struct {
			Status string            `json:"status"`
			Labels map[string]string `json:"labels"`
		} `json:"alerts"`
	}
	if err := json.NewDecoder(request.Body).Decode(&body); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, alert := range body.Alerts {
		id := alert.Labels["incident"]
		if r.told[id] == nil {
			r.told[id] = map[string]int{}
		}
		r.told[id][alert.Status]++
	}
}

func (r *receiver) count(incident *controlv1.Incident) (firing, resolved int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	told := r.told[incident.GetIncidentId()]
	return told["firing"], told["resolved"]
}
