package store

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// cache is what a transaction has read and not yet written. A batch of a
// hundred step reports reads and writes its run a hundred times; the database
// sees one of each.
type cache struct {
	runs  map[string]*cachedRun
	quiet map[string]bool // runs that have no open incident
}

// cachedRun is a run as the transaction has it. One that the database does not
// have yet is never only here, since other rows refer to it.
type cachedRun struct {
	run   *controlv1.Run
	dirty bool
}

func newCache() cache {
	return cache{runs: map[string]*cachedRun{}, quiet: map[string]bool{}}
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
		_, err = tx.exec("UPDATE runs SET ended = $1, started = $2, body = $3 WHERE run_id = $4",
			nanosOf(c.run.GetEnded()), nanosOf(c.run.GetStarted()), body, c.run.GetRunId())
		if err != nil {
			return fmt.Errorf("put run %s: %w", c.run.GetRunId(), err)
		}
		c.dirty = false
	}
	return nil
}

// keepRun remembers a run that the database has; the caller keeps its own.
func (tx *Tx) keepRun(run *controlv1.Run, dirty bool) {
	tx.cache.runs[run.GetRunId()] = &cachedRun{run: proto.CloneOf(run), dirty: dirty}
}
