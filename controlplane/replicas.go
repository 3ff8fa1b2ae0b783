package controlplane

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/vigil-ml/vigil/controlplane/duty"
	"github.com/vigil-ml/vigil/controlplane/export"
	"github.com/vigil-ml/vigil/controlplane/fleet"
	"github.com/vigil-ml/vigil/controlplane/incident"
	"github.com/vigil-ml/vigil/controlplane/pipeline"
	"github.com/vigil-ml/vigil/controlplane/retain"
	"github.com/vigil-ml/vigil/controlplane/routing"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/life"
)

// newReplica names this process among the control planes that share its records.
func newReplica() store.Replica {
	host, err := os.Hostname()
	if err != nil {
		host = "replica"
	}
	return store.Replica{ID: host + "-" + uuid.NewString()[:8], Started: time.Now()}
}

// sharedID is the replica's id where there may be others; empty where not.
func (c *controlPlane) sharedID() string {
	if !c.store.Shared() {
		return ""
	}
	return c.self.ID
}

// duties is what one of the replicas does at a time.
func (c *controlPlane) duties(events []*pipeline.Pipeline, incidents *incident.Engine, router *routing.Router, nodes *fleet.Fleet, exports export.Set, old *retain.Retention) *duty.Roster {
	all := []duty.Duty{{Name: "timers", Run: func(ctx context.Context) error {
		return life.All(ctx, life.Task{Name: "incidents", Run: incidents.Run}, life.Task{Name: "routing", Run: router.Run})
	}}}
	all = append(all, duty.Duty{Name: "retention", Run: old.Run})
	all = append(all, duty.Duty{Name: "record keys", Run: c.people.Sweep})
	for _, p := range events {
		all = append(all, duty.Duty{Name: p.Name(), Run: p.Run})
	}
	if len(exports) > 0 {
		all = append(all, duty.Duty{Name: "exports", Run: exports.Run})
	}
	if c.store.Shared() {
		all = append(all, duty.Duty{Name: "nodes", Run: nodes.Watch})
	}
	return duty.New(c.config.Replicas, duty.Deps{Store: c.store, Self: c.self, Log: c.log, Metrics: c.metrics}, all...)
}

// retention is what lets go of old records.
func (c *controlPlane) retention() *retain.Retention {
	return retain.New(c.config.Retention, retain.Deps{
		Store: c.store, Log: c.log, Metrics: c.metrics, Clock: time.Now,
		Others: []retain.Kept{{Records: "events", For: c.config.Bus.MaxAge}, {Records: "samples", For: c.config.Metrics.Retention}},
	})
}

// healthy gives what keeps any of the pipelines that run here from going on.
func healthy(events []*pipeline.Pipeline) func() error {
	return func() error {
		var all []error
		for _, p := range events {
			all = append(all, p.Healthy())
		}
		return errors.Join(all...)
	}
}

// The topics of hints between replicas. Each begins with the id of its sender
// and a space.
const (
	hintChanged  = "changed"   // topics of the store, separated by commas
	hintTookOver = "took-over" // a node whose agent has come here
)

func (c *controlPlane) tellChanged(topics []store.Topic) {
	var names []string
	for _, topic := range topics {
		names = append(names, string(topic))
	}
	c.bus.Hint(hintChanged, []byte(c.self.ID+" "+strings.Join(names, ",")))
}

func (c *controlPlane) tellTookOver(node string) {
	c.bus.Hint(hintTookOver, []byte(c.self.ID+" "+node))
}

// hear does what hints of other replicas ask for, until ctx ends.
func (c *controlPlane) hear(ctx context.Context, nodes *fleet.Fleet) error {
	ofOthers := func(do func(text string)) func([]byte) {
		return func(data []byte) {
			if from, text, ok := strings.Cut(string(data), " "); ok && from != c.self.ID {
				do(text)
			}
		}
	}
	return life.All(ctx,
		life.Task{Name: "hints of changes", Run: func(ctx context.Context) error {
			return c.bus.OnHint(ctx, hintChanged, ofOthers(func(text string) {
				for topic := range strings.SplitSeq(text, ",") {
					c.store.Wake(store.Topic(topic))
				}
			}))
		}},
		life.Task{Name: "hints of agents", Run: func(ctx context.Context) error {
			return c.bus.OnHint(ctx, hintTookOver, ofOthers(nodes.Elsewhere))
		}},
	)
}
