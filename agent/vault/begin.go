package vault

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

const (
	maxSizes   = 4096 // ranks whose last size is remembered
	maxOfRank  = 8    // checkpoints of one rank that are begun or wait to be sealed
	minRunPart = 8    // of those of one run, where half of all would be less
)

// BeginRequest asks for a place to write one rank's files to.
type BeginRequest struct {
	RunID        string
	CheckpointID string // empty: a new id is made
	Attempt      uint32
	Rank         uint32
	Reason       commonv1.CheckpointReason
	Failure      commonv1.FailureKind // what it answers, where it was ordered
	CommandID    string               // the command that ordered it; may be empty
	Ordered      bool                 // somebody asked for it; else it is the trainer's own
	Traceparent  string               // W3C trace context of whoever ordered it; may be empty
	SizeBytes    int64                // bytes to be written; 0 when not known
	User         *int                 // whose process it is; nil: the agent's own user's
}

// Begin makes an empty directory for a trainer to write its files into. A
// second Begin for the same checkpoint and rank empties it, as long as it was
// not committed, and one for a checkpoint of the trainer's own removes those of
// its own that the rank did not commit: it writes one at a time. It fails with [fault.Exists] once it was, with
// [fault.Exhausted] when too many wait to be sealed, with [fault.Invalid] for bad
// ids, and for a process of another user with [fault.Precondition] where the agent
// cannot give a directory away, or the user cannot reach it.
func (v *Vault) Begin(ctx context.Context, req BeginRequest) (id, dir string, err error) {
	if req.CheckpointID == "" {
		fresh, err := uuid.NewV7()
		if err != nil {
			return "", "", fmt.Errorf("make checkpoint id: %w", err)
		}
		req.CheckpointID = fresh.String()
	}
	if err := CheckRunID(req.RunID); err != nil {
		return "", "", err
	}
	if err := CheckCheckpointID(req.CheckpointID); err != nil {
		return "", "", err
	}
	if req.SizeBytes < 0 {
		return "", "", fault.New(fault.Invalid, "size of the checkpoint is %d bytes", req.SizeBytes)
	}
	if err := ctx.Err(); err != nil {
		return "", "", err
	}
	s, err := v.stage(req)
	if err != nil {
		return "", "", fmt.Errorf("begin checkpoint %s: %w", req.CheckpointID, err)
	}
	return req.CheckpointID, s.filesDir(), nil
}

func (v *Vault) stage(req BeginRequest) (*staging, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	k := key{req.RunID, req.CheckpointID, req.Rank}
	if old := v.staged[k]; old != nil && (old.committed || old.committing) {
		return nil, fault.New(fault.Exists, "rank %d committed it already", req.Rank)
	} else if old != nil {
		v.discard(old)
	}
	if _, err := os.Lstat(v.rankDir(k)); err == nil {
		return nil, fault.New(fault.Exists, "rank %d saved it already", req.Rank)
	}
	if v.foreign(req.RunID, req.User) {
		return nil, fault.WithHint(fault.New(fault.Denied, "run %s has checkpoints of another user", req.RunID), "give the run another id")
	}
	v.discardDead(req)
	if err := v.room(req); err != nil {
		return nil, err
	}
	root, reserved := v.stagingRoot(key{runID: req.RunID, rank: req.Rank}, req.SizeBytes)
	s := &staging{dir: stagingPath(root, k), reservedBytes: reserved, ticket: ticket{
		RunID: req.RunID, CheckpointID: req.CheckpointID, Attempt: req.Attempt, Rank: req.Rank,
		Reason: req.Reason, Failure: req.Failure, CommandID: req.CommandID, Ordered: req.Ordered,
		Traceparent: req.Traceparent, Begun: v.deps.Clock().UTC(), Owner: req.User,
	}}
	if err := v.deps.FS.RemoveAll(s.dir); err != nil {
		return nil, err
	}
	if err := v.deps.FS.MkdirAll(s.filesDir(), 0o700); err != nil {
		return nil, err
	}
	if err := s.note(v.deps.FS, beginName, s.ticket); err != nil {
		return nil, err
	}
	if s.Owner != nil {
		if err := v.hand(s.filesDir(), *s.Owner); err != nil {
			v.discard(s)
			return nil, err
		}
	}
	v.giveSpares(s)
	v.staged[k] = s
	return s, nil
}

// stagingRoot chooses memory where the bytes fit twice beside what others will
// write; a number of bytes that nobody knows goes to disk. What is kept of the
// rank's last checkpoint counts as free, since it is written over; where memory is
// short all that is kept is given back.
func (v *Vault) stagingRoot(rank key, sizeBytes int64) (root string, reservedBytes int64) {
	sizeBytes = cmp.Or(sizeBytes, v.sizes[rank])
	if v.memory == "" || sizeBytes == 0 {
		return v.disk, 0
	}
	free, err := freeBytes(filepath.Dir(v.memory))
	if err != nil {
		return v.disk, 0
	}
	for _, s := range v.staged {
		free -= s.reservedBytes
	}
	own := int64(0)
	if kept := v.spared[rank]; kept != nil {
		own = kept.sizeBytes
	}
	if sizeBytes > (free+own)/2 {
		v.dropSpares(func(key, *spares) bool { return true }) // for the next one
		return v.disk, 0
	}
	if v.claimMemory() != nil {
		return v.disk, 0
	}
	return v.memory, max(0, sizeBytes-own)
}

// room refuses what would take the others' places: one rank, one run and one other
// user have only a part of them.
func (v *Vault) room(req BeginRequest) error {
	ofRank, ofRun, ofUser := 0, 0, 0
	for k, s := range v.staged {
		if req.User != nil && sameUser(s.Owner, req.User) {
			ofUser++
		}
		if k.runID == req.RunID {
			ofRun++
			if k.rank == req.Rank {
				ofRank++
			}
		}
	}
	switch {
	case ofRank >= maxOfRank:
		return fault.New(fault.Exhausted, "%d checkpoints of rank %d are begun or wait to be sealed; no more are taken", ofRank, req.Rank)
	case ofRun >= max(minRunPart, v.config.MaxStaged/2):
		return fault.New(fault.Exhausted, "%d checkpoints of run %s are begun or wait to be sealed; no more are taken", ofRun, req.RunID)
	case ofUser >= max(minRunPart, v.config.MaxStaged/2):
		return fault.New(fault.Exhausted, "%d checkpoints of user %d are begun or wait to be sealed; no more are taken", ofUser, *req.User)
	case len(v.staged) >= v.config.MaxStaged:
		return fault.New(fault.Exhausted, "%d checkpoints are begun or wait to be sealed; no more are taken", len(v.staged))
	}
	return nil
}

// discardDead removes what the same rank began and will not commit any more:
// in an earlier attempt, or before it began another of its own.
func (v *Vault) discardDead(req BeginRequest) {
	for _, s := range v.staged {
		if s.RunID != req.RunID || s.Rank != req.Rank || s.committed || s.committing {
			continue
		}
		if s.Attempt < req.Attempt || (!s.Ordered && !req.Ordered) {
			v.discard(s)
		}
	}
}

// discard removes a staging directory. One that cannot be removed is tried again
// later, or left for the next start.
func (v *Vault) discard(s *staging) {
	delete(v.staged, s.key())
	if err := v.deps.FS.RemoveAll(s.dir); err != nil {
		v.deps.Log.Warn("remove staging directory", "directory", s.dir, "error", err)
		if err := v.putAway(s); err != nil {
			v.deps.Log.Warn("put staging directory away", "directory", s.dir, "error", err)
			return
		}
	}
	// The directories above go when they are empty; another rank may use them.
	checkpoint := filepath.Dir(s.dir)
	run := filepath.Dir(checkpoint)
	if os.Remove(checkpoint) == nil {
		_ = os.Remove(run)
	}
}

// CommitRequest hands a staging directory over.
type CommitRequest struct {
	RunID        string
	CheckpointID string
	Rank         uint32
	Metadata     *commonv1.CheckpointMetadata
	Traceparent  string // where empty, that of Begin is taken
	Parent       string // the checkpoint that the attempt went on from; may be empty
}

// Commit takes a staging directory over; on return a mark on stable storage
// says so, and Run seals it. A repeated commit does nothing. It fails with
// [fault.NotFound] for what was never begun, and with [fault.Invalid] for bad
// metadata or for anything but regular files in the directory.
func (v *Vault) Commit(ctx context.Context, req CommitRequest) error {
	k := key{req.RunID, req.CheckpointID, req.Rank}
	s, err := v.take(k)
	if err != nil || s == nil {
		return err
	}
	t, err := v.commit(s, req)
	v.mu.Lock()
	s.committing = false
	if err != nil {
		v.mu.Unlock()
		return fmt.Errorf("commit checkpoint %s of rank %d: %w", req.CheckpointID, req.Rank, err)
	}
	s.ticket, s.metadata, s.committed, s.reservedBytes = t, req.Metadata, true, 0
	if len(v.sizes) >= maxSizes {
		clear(v.sizes)
	}
	v.sizes[key{runID: req.RunID, rank: req.Rank}] = t.SizeBytes
	v.mu.Unlock()
	// Told before Run can have it, so that states come in their order.
	v.tell(ctx, s, commonv1.CheckpointState_CHECKPOINT_STATE_STAGED, nil)
	v.enqueue(s)
	return nil
}

// take claims a begun staging for a commit; nil without an error when it was
// committed before.
func (v *Vault) take(k key) (*staging, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.staged[k]
	switch {
	case s == nil:
		if CheckRunID(k.runID) == nil && CheckCheckpointID(k.checkpointID) == nil {
			if _, err := os.Lstat(v.rankDir(k)); err == nil {
				return nil, nil
			}
		}
		return nil, fault.New(fault.NotFound, "commit checkpoint %.140q: rank %d did not begin it", k.checkpointID, k.rank)
	case s.committed:
		return nil, nil
	case s.committing:
		return nil, fault.New(fault.Precondition, "commit checkpoint %s: another commit of rank %d is under way", k.checkpointID, k.rank)
	}
	s.committing = true
	return s, nil
}

func (v *Vault) commit(s *staging, req CommitRequest) (ticket, error) {
	if err := checkMetadata(req.Metadata, req.Rank); err != nil {
		return ticket{}, err
	}
	if req.Parent != "" {
		if err := CheckCheckpointID(req.Parent); err != nil {
			return ticket{}, err
		}
	}
	_, size, err := s.list()
	if err != nil {
		return ticket{}, err
	}
	if err := v.roomFor(s, size); err != nil {
		return ticket{}, err
	}
	metadata, err := protojson.Marshal(req.Metadata)
	if err != nil {
		return ticket{}, fmt.Errorf("encode metadata: %w", err)
	}
	t := s.ticket
	t.Parent, t.SizeBytes, t.Metadata = req.Parent, size, json.RawMessage(metadata)
	t.Traceparent = cmp.Or(req.Traceparent, t.Traceparent)
	t.Committed = v.deps.Clock().UTC()
	return t, s.note(v.deps.FS, commitName, t)
}

func checkMetadata(m *commonv1.CheckpointMetadata, rank uint32) error {
	switch {
	case m == nil:
		return fault.New(fault.Invalid, "metadata is missing")
	case m.WorldSize == 0:
		return fault.New(fault.Invalid, "metadata.world_size is 0; want at least 1")
	case m.Rank != rank:
		return fault.New(fault.Invalid, "metadata.rank is %d; this is rank %d", m.Rank, rank)
	case m.Rank >= m.WorldSize:
		return fault.New(fault.Invalid, "metadata.rank is %d of %d ranks", m.Rank, m.WorldSize)
	case m.Step < 0:
		return fault.New(fault.Invalid, "metadata.step is %d; want at least 0", m.Step)
	case m.DataPosition < 0:
		return fault.New(fault.Invalid, "metadata.data_position is %d; want at least 0", m.DataPosition)
	case m.GetNonfiniteParameters() < 0:
		return fault.New(fault.Invalid, "metadata.nonfinite_parameters is %d; want at least 0, or leave it out", m.GetNonfiniteParameters())
	case m.Metric != nil && (math.IsNaN(m.GetMetric()) || math.IsInf(m.GetMetric(), 0)):
		return fault.New(fault.Invalid, "metadata.metric is %v; leave it out where there is none", m.GetMetric())
	case len(m.Format) > 256:
		return fault.New(fault.Invalid, "metadata.format has %d bytes; at most 256", len(m.Format))
	}
	return nil
}

func sortByName(files []stagedFile) {
	slices.SortFunc(files, func(a, b stagedFile) int { return cmp.Compare(a.name, b.name) })
}
