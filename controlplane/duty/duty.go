// Package duty divides what has one owner at a time, a partition's detectors,
// the timers, among the control planes that share the records.
//
// Each replica counts up its beat in the records, and looks at those of the
// others. One whose beat stood still for [Config].LostAfter, by the clock of
// whoever looks, is dead: what it owned has no owner then, and goes to another.
// Clocks of different machines are never compared. Who is to own what follows
// from the names of the living alone (rendezvous hashing), so that all agree,
// and little moves when one comes or goes.
//
// That a duty has two owners for a moment cannot be excluded: a process may be
// held up for longer than it takes to be found dead. What a duty writes must
// therefore be guarded by what it writes: the pipeline's transaction moves its
// cursor from where it was to where it is, and so only one of two takes effect.
package duty

import (
	"context"
	"errors"
	"hash/fnv"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/metric"
)

// Config is what users say about replicas.
type Config struct {
	// LostAfter is how long a replica is not heard of before others take over
	// what it did: 500ms to 5m.
	LostAfter time.Duration `yaml:"lost_after"`
}

// Defaults gives a replica five seconds.
func Defaults() Config { return Config{LostAfter: 5 * time.Second} }

// Check reports a time that is out of range.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.LostAfter < 500*time.Millisecond || c.LostAfter > 5*time.Minute {
		report("lost_after", "is %s; want 500ms to 5m", c.LostAfter)
	}
}

// beatsToLose is how many beats a replica makes in the time after which it
// counts as dead.
const beatsToLose = 5

// Duty is something that one replica does at a time, until its context ends.
// Its error ends the replica.
type Duty struct {
	Name string
	Run  func(context.Context) error
}

// Deps is what a roster needs.
type Deps struct {
	Store   *store.Store
	Self    store.Replica // this replica
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Roster does this replica's part of the duties.
type Roster struct {
	config Config
	deps   Deps
	owned  *prometheus.GaugeVec
	duties []Duty

	seen    map[string]sighting // of the other replicas
	running map[string]*life.Group
	good    time.Time // when the records answered last
}

// sighting is when a replica's beat was first seen as it is.
type sighting struct {
	beat  int64
	since time.Time
}

// New makes a roster. Duties are the same on every replica.
func New(config Config, deps Deps, duties ...Duty) *Roster {
	return &Roster{
		config: config, deps: deps, duties: duties, owned: metric.NewGauge(deps.Metrics, metric.ControlDuties),
		seen: map[string]sighting{}, running: map[string]*life.Group{},
	}
}

// Run does duties until ctx ends, and then gives them to others. Where nobody
// shares the records it does them all.
func (r *Roster) Run(ctx context.Context) error {
	if !r.deps.Store.Shared() {
		var tasks []life.Task
		for _, d := range r.duties {
			tasks = append(tasks, life.Task{Name: d.Name, Run: d.Run})
		}
		r.owned.WithLabelValues().Set(float64(len(tasks)))
		return life.All(ctx, tasks...)
	}
	err := r.share(ctx)
	return errors.Join(err, r.leave(ctx))
}

func (r *Roster) share(ctx context.Context) error {
	beat := time.NewTicker(r.config.LostAfter / beatsToLose)
	defer beat.Stop()
	for ctx.Err() == nil {
		// Taken before the look, so that a change during it is not missed.
		changed := r.deps.Store.Changed(store.TopicLeases)
		if err := r.round(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-beat.C:
		case <-changed:
		case <-r.failed():
		}
	}
	return nil
}

// failed gives a channel that is closed when a duty has ended; nil while there
// is none.
func (r *Roster) failed() <-chan struct{} {
	for _, group := range r.running {
		if group.Context().Err() != nil {
			return group.Context().Done()
		}
	}
	return nil
}

// round beats once, and begins and ends duties as the records then say.
func (r *Roster) round(ctx context.Context) error {
	now := time.Now()
	var p plan
	err := r.deps.Store.Update(ctx, func(tx *store.Tx) (err error) {
		p, err = r.look(tx, now)
		return err
	})
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		if now.Sub(r.good) < r.config.LostAfter {
			return nil
		}
		if len(r.running) > 0 { // others may have them by now
			r.deps.Log.Error("this replica hands over its duties: the records do not answer", "error", err)
		}
		return r.keep(nil)
	}
	r.good, r.seen = now, p.seen
	for _, dead := range p.dead {
		r.deps.Log.Warn("a replica is dead: others do its duties", "replica", dead)
	}
	if err := r.keep(p.mine); err != nil {
		return err
	}
	for name := range p.mine {
		r.begin(ctx, name)
	}
	r.owned.WithLabelValues().Set(float64(len(r.running)))
	return r.release(ctx, p.release)
}

// plan is what a look at the records leads to.
type plan struct {
	seen    map[string]sighting
	dead    []string
	mine    map[string]bool // what this replica does
	release []string        // what it does no more
}

// look beats, finds the dead, and takes what falls to this replica.
func (r *Roster) look(tx *store.Tx, now time.Time) (plan, error) {
	p := plan{seen: map[string]sighting{}, mine: map[string]bool{}}
	if err := tx.Beat(r.deps.Self); err != nil {
		return p, err
	}
	replicas, err := tx.Replicas()
	if err != nil {
		return p, err
	}
	var living []string
	for _, other := range replicas {
		s, known := r.seen[other.ID]
		if !known || s.beat != other.Beat {
			s = sighting{other.Beat, now}
		}
		if other.ID != r.deps.Self.ID && now.Sub(s.since) >= r.config.LostAfter {
			p.dead = append(p.dead, other.ID)
			if err := tx.ForgetReplica(other.ID); err != nil {
				return p, err
			}
			continue
		}
		p.seen[other.ID] = s
		living = append(living, other.ID)
	}
	leases, err := tx.Leases()
	if err != nil {
		return p, err
	}
	for _, d := range r.duties {
		mine := preferred(d.Name, living) == r.deps.Self.ID
		switch owner := leases[d.Name].Owner; {
		case owner == r.deps.Self.ID && mine:
			p.mine[d.Name] = true
		case owner == r.deps.Self.ID:
			p.release = append(p.release, d.Name)
		case owner == "" && mine:
			p.mine[d.Name] = true
			if err := tx.SetLease(d.Name, r.deps.Self.ID); err != nil {
				return p, err
			}
		}
	}
	return p, nil
}

// preferred is who of the living is to do a duty.
func preferred(duty string, living []string) string {
	best, most := "", uint64(0)
	for _, id := range living {
		sum := fnv.New64a()
		_, _ = sum.Write([]byte(duty + "\x00" + id))
		weight := mix(sum.Sum64())
		if best == "" || weight > most || (weight == most && id < best) {
			best, most = id, weight
		}
	}
	return best
}

// mix spreads a hash over all bits: the last bytes alone decide little in FNV.
// Source: the finalizer of MurmurHash3.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// begin starts a duty that is not running.
func (r *Roster) begin(ctx context.Context, name string) {
	if r.running[name] != nil {
		return
	}
	for _, d := range r.duties {
		if d.Name == name {
			group := life.NewGroup(ctx)
			group.Go(name, d.Run)
			r.running[name] = group
			r.deps.Log.Info("this replica has a duty", "duty", name)
		}
	}
}

// keep ends the running duties but some, and gives the first error of one that
// ended by itself.
func (r *Roster) keep(mine map[string]bool) error {
	var ending []*life.Group
	for name, group := range r.running {
		if mine[name] && group.Context().Err() == nil {
			continue
		}
		group.Stop()
		ending = append(ending, group)
		delete(r.running, name)
		r.deps.Log.Info("this replica has a duty no more", "duty", name)
	}
	var err error
	for _, group := range ending {
		err = errors.Join(err, group.Wait())
	}
	return err
}

// release gives up duties that were ended.
func (r *Roster) release(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	err := r.deps.Store.Update(ctx, func(tx *store.Tx) error {
		for _, name := range names {
			if err := tx.SetLease(name, ""); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		r.deps.Log.Warn("a duty is given up with the next beat", "error", err)
	}
	return nil
}

// leaveTime bounds how long a replica that ends waits for the records.
const leaveTime = 3 * time.Second

// leave ends all duties and takes this replica from the list, so that others
// need not wait to find it dead.
func (r *Roster) leave(ctx context.Context) error {
	err := r.keep(nil)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTime)
	defer cancel()
	if gone := r.deps.Store.Update(ctx, func(tx *store.Tx) error { return tx.ForgetReplica(r.deps.Self.ID) }); gone != nil {
		r.deps.Log.Warn("this replica could not say that it ends", "error", gone)
	}
	return err
}
