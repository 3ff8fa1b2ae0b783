package vault

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// Names in a staging directory. The trainer has only files/ to write to; what
// the vault notes lies beside it.
const (
	beginName  = "begin.json"
	commitName = "commit.json"
)

// key names one rank's part of a checkpoint.
type key struct {
	runID        string
	checkpointID string
	rank         uint32
}

// ticket is what the vault notes of a staging directory: at its beginning in
// begin.json, and with what was committed in commit.json. It is all that a
// restarted agent knows.
type ticket struct {
	RunID        string                    `json:"run_id"`
	CheckpointID string                    `json:"checkpoint_id"`
	Attempt      uint32                    `json:"attempt"`
	Rank         uint32                    `json:"rank"`
	Reason       commonv1.CheckpointReason `json:"reason"`
	Failure      commonv1.FailureKind      `json:"failure"`
	CommandID    string                    `json:"command_id"`
	Ordered      bool                      `json:"ordered"`
	Traceparent  string                    `json:"traceparent"`
	Begun        time.Time                 `json:"begun"`
	Owner        *int                      `json:"owner,omitempty"` // whose process writes; nil: the agent's own user's
	// From here on only in commit.json.
	Parent    string          `json:"parent,omitempty"`
	Committed time.Time       `json:"committed,omitzero"`
	SizeBytes int64           `json:"size_bytes,omitempty"`
	Metadata  json.RawMessage `json:"metadata,omitempty"` // vigil.common.v1.CheckpointMetadata as JSON
}

// staging is one staging directory. The vault's lock guards it until it is
// committed; afterwards it belongs to Run.
type staging struct {
	ticket
	dir           string
	reservedBytes int64 // announced and not yet written, in memory
	committing    bool
	committed     bool
	sealing       bool // a worker has it
	tries         int
	notBefore     time.Time
	verified      bool // and about to be finished
	spares        int  // files that were given with it, to be written over
	metadata      *commonv1.CheckpointMetadata
}

func (s *staging) key() key         { return key{s.RunID, s.CheckpointID, s.Rank} }
func (s *staging) of() key          { return key{runID: s.RunID, rank: s.Rank} }
func (s *staging) filesDir() string { return filepath.Join(s.dir, filesName) }

// note writes the ticket.
func (s *staging) note(fsys durable.FS, name string, t ticket) error {
	data, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	return durable.WriteFile(fsys, filepath.Join(s.dir, name), append(data, '\n'), 0o600)
}

// readStaging reads a staging directory of an earlier agent. The names of its
// directories must be those that its ticket gives.
func readStaging(root, dir string) (*staging, error) {
	s := &staging{dir: dir}
	data, err := readBounded(filepath.Join(dir, commitName), 1<<20)
	s.committed = err == nil
	if !s.committed {
		if data, err = readBounded(filepath.Join(dir, beginName), 1<<20); err != nil {
			return nil, err
		}
	}
	if err := json.Unmarshal(data, &s.ticket); err != nil {
		return nil, fault.New(fault.Corrupt, "decode ticket of %s: %w", dir, err)
	}
	if err := CheckRunID(s.RunID); err != nil {
		return nil, err
	}
	if err := CheckCheckpointID(s.CheckpointID); err != nil {
		return nil, err
	}
	if want := stagingPath(root, s.key()); want != dir {
		return nil, fault.New(fault.Corrupt, "ticket of %s speaks of %s", dir, want)
	}
	if s.committed {
		s.metadata = &commonv1.CheckpointMetadata{}
		if err := protojson.Unmarshal(s.Metadata, s.metadata); err != nil {
			return nil, fault.New(fault.Corrupt, "decode ticket of %s: %w", dir, err)
		}
	}
	return s, nil
}

func stagingPath(root string, k key) string {
	return filepath.Join(root, k.runID, k.checkpointID, rankName(k.rank))
}

// stagedFile is one regular file that a trainer wrote.
type stagedFile struct {
	name    string
	info    os.FileInfo
	foreign bool // of another user than the agent's
}

// list gives the regular files below a staging directory, sorted by name, and
// their bytes. Anything that is neither a regular file nor a directory is
// refused: a link would have the vault copy what the trainer does not own. So is
// a file that is not its own.
func (s *staging) list() ([]stagedFile, int64, error) {
	var files []stagedFile
	var sum int64
	err := s.walk(func(name string, info os.FileInfo) error {
		if err := checkFileName(name); err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return fault.New(fault.Invalid, "staged file %q is no regular file (%s); write files, not links", name, info.Mode().Type())
		}
		if !s.owns(info) {
			return fault.New(fault.Invalid, "staged file %q is of user %d, not of user %d whose checkpoint it is", name, ownerOf(info), *s.Owner)
		}
		if len(files) == maxFiles {
			return fault.New(fault.Invalid, "more than %d staged files", maxFiles)
		}
		files = append(files, stagedFile{name, info, s.Owner != nil})
		sum += info.Size()
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("list staged files: %w", err)
	}
	if len(files) == 0 {
		return nil, 0, fault.New(fault.Invalid, "staging directory %s holds no file", s.filesDir())
	}
	sortByName(files)
	return files, sum, nil
}

// owns tells whether a file is of the user whose checkpoint it is. The agent's own
// user may stage whatever it can read.
func (s *staging) owns(info os.FileInfo) bool { return s.Owner == nil || ownerOf(info) == *s.Owner }

// walk visits what is in a staging directory and is no directory. Whoever owns it
// may change it meanwhile: no link is followed out of it.
func (s *staging) walk(visit func(name string, info os.FileInfo) error) error {
	if info, err := os.Lstat(s.filesDir()); err != nil {
		return err
	} else if !info.IsDir() {
		return fault.New(fault.Invalid, "%s is no directory any more", s.filesDir())
	}
	root, err := os.OpenRoot(s.filesDir())
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	return fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		info, lookErr := root.Lstat(filepath.FromSlash(name))
		switch {
		case err != nil && name != "." && (lookErr != nil || !info.IsDir()):
			return replaced(name)
		case err != nil || entry.IsDir():
			return err
		case lookErr != nil:
			return lookErr
		}
		return visit(name, info)
	})
}

// replaced says that a trainer changed what it had handed over: nothing that is
// tried again would help.
func replaced(name string) error {
	return fault.New(fault.Invalid, "staged file %q was replaced after the commit", name)
}

// openStaged opens a file for reading, provided that it still is the regular
// file that was listed. It does not wait where a pipe took its place.
func openStaged(root *os.Root, file stagedFile) (*os.File, error) {
	f, err := root.OpenFile(filepath.FromSlash(file.name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		if info, lookErr := root.Lstat(filepath.FromSlash(file.name)); lookErr != nil || !os.SameFile(info, file.info) {
			return nil, replaced(file.name)
		}
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	if !os.SameFile(info, file.info) {
		_ = f.Close()
		return nil, replaced(file.name)
	}
	return f, nil
}

// makePrivate makes a directory that only this user can enter, or makes sure
// that one that is there is so; others may pass it (see others.go).
func makePrivate(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil && !os.IsExist(err) {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || info.Mode().Perm()&^passBits != 0o700 || int(stat.Uid) != os.Getuid() {
		return fault.New(fault.Denied, "%s is not a directory that is this user's alone", path)
	}
	return nil
}

// freeBytes gives what a file system can still take.
func freeBytes(path string) (int64, error) {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(path, &stat); err != nil {
		return 0, err
	}
	return int64(stat.Bavail) * int64(stat.Bsize), nil
}
