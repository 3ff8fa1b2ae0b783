package store

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// cache is what a transaction has read and not yet written. A batch of a
// hundred step reports reads and writes its run a hundred times; the database
// sees one of each.
type cache struct {
	runs  map[string]*cachedRun
	quiet map[string]bool // runs that have no open incident
	none  map[ofKind]bool // and those that have none of a kind

	relaunched map[string]time.Time // when runs were launched again; zero when they were not

	incidents map[string]IncidentRecord // as they were put
	opened    map[string]int64          // incidents that the transaction opened, and how long their timelines are
	joined    map[string]bool           // incidents that became part of a group
	external  map[string]string         // incidents by the fingerprints that were asked for; "" where there is none
	silences  map[int64][]*controlv1.Silence

	absent    map[string]bool // runs that were looked for and that there were not
	fresh     map[string]bool // and of which, since they were put, there is no incident
	attempted map[string]bool // and those of them that have an attempt

	there    map[string]bool               // findings that were looked for: whether they are there
	findings map[string]*controlv1.Finding // those that were put
	causes   map[string]*controlv1.Finding // of incidents that the transaction opened; nil: to be looked for

	newGroups map[string][]AlertMember // the members of groups that there were not when they were looked for

	members map[[2]string]bool    // group and incident of those that became part of one
	groups  map[string]AlertGroup // groups that were looked for, as they are now; without an id where there is none
	places  map[string]string     // of groups that were looked for or made
	later   [tables]waitingRows
}

// ofKind is incidents of one run and kind.
type ofKind struct{ runID, kind string }

// cachedRun is a run as the transaction has it. One that the database does not
// have yet is never only here, since other rows refer to it.
type cachedRun struct {
	run   *controlv1.Run
	dirty bool
	begun uint64 // the first sequence of a run that goes on again after its end; 0 when it stays
}

func newCache() cache {
	return cache{
		runs: map[string]*cachedRun{}, quiet: map[string]bool{}, none: map[ofKind]bool{}, relaunched: map[string]time.Time{},
		incidents: map[string]IncidentRecord{}, opened: map[string]int64{}, joined: map[string]bool{}, external: map[string]string{},
		absent: map[string]bool{}, fresh: map[string]bool{}, attempted: map[string]bool{},
		there: map[string]bool{}, findings: map[string]*controlv1.Finding{}, causes: map[string]*controlv1.Finding{}, newGroups: map[string][]AlertMember{},
		silences: map[int64][]*controlv1.Silence{}, members: map[[2]string]bool{}, groups: map[string]AlertGroup{}, places: map[string]string{},
	}
}

// flushRuns writes the runs that were put and not yet written. It is called
// before the commit and before a query over all runs.
func (tx *Tx) flushRuns() error {
	for _, c := range tx.cache.runs {
		if !c.dirty {
			continue
		}
		body, err := marshal(c.run)
		if err != nil {
			return err
		}
		_, err = tx.exec(`UPDATE runs SET ended = $1, started = $2, body = $3,
			first_sequence = CASE WHEN CAST($5 AS BIGINT) = 0 THEN first_sequence ELSE $5 END WHERE run_id = $4`,
			nanosOf(c.run.GetEnded()), nanosOf(c.run.GetStarted()), body, c.run.GetRunId(), int64(c.begun))
		if err != nil {
			return fmt.Errorf("put run %s: %w", c.run.GetRunId(), err)
		}
		c.dirty, c.begun = false, 0
	}
	return nil
}

// keepIncident remembers an incident that the database has, and that the caller
// does not change any more.
func (tx *Tx) keepIncident(r IncidentRecord) {
	id := r.Incident.GetIncidentId()
	tx.cache.incidents[id] = r
	if _, asked := tx.cache.external[r.Fingerprint]; asked {
		tx.cache.external[r.Fingerprint] = id
	}
}

// keptIncident gives a remembered incident, the caller's own.
func (tx *Tx) keptIncident(id string) (IncidentRecord, bool) {
	r, ok := tx.cache.incidents[id]
	if ok {
		r.Incident = proto.CloneOf(r.Incident)
	}
	return r, ok
}

// keepRun remembers a run that the database has; the caller keeps its own.
func (tx *Tx) keepRun(run *controlv1.Run) {
	tx.cache.runs[run.GetRunId()] = &cachedRun{run: proto.CloneOf(run)}
}
