package vault

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/google/uuid"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Processes of other users than the agent's. A job's trainer runs as its user, the
// agent as root. Such a process gets a directory that it owns and that nobody else
// enters, below directories that are the agent's and that others may pass and do not
// read: it can put nothing in the place of the directory itself. What it does inside
// is looked at through [os.Root], which no link leads out of, and only files that
// it owns are taken: a hard link to another's is not. What it goes on from is
// restored into such a directory too; the vault itself stays the agent's.

// passBits has others pass a directory and not read it.
const passBits = 0o011

// hand gives a directory of the agent's, with all that is in it, to a user.
func (v *Vault) hand(dir string, user int) error {
	// The directory comes last: until then its new owner cannot enter it.
	paths := []string{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		paths = append(paths, path)
		return err
	})
	if err != nil {
		return fmt.Errorf("give %s to user %d: %w", dir, user, err)
	}
	for _, path := range slices.Backward(paths) {
		if err := os.Lchown(path, user, -1); errors.Is(err, fs.ErrPermission) {
			return notRoot(user)
		} else if err != nil {
			return fmt.Errorf("give %s to user %d: %w", path, user, err)
		}
	}
	return v.letThrough(filepath.Dir(dir), user)
}

// letThrough has others pass a directory of the vault's own and those above it. The
// vault's and the staging directory that the configuration names are opened only
// where nothing in them is open to others, and no directory above them is: those are
// for whoever made them.
func (v *Vault) letThrough(dir string, user int) error {
	modes, err := v.barred(dir, user)
	if err != nil {
		return err
	}
	for at, mode := range modes {
		if err := os.Chmod(at, mode); err != nil {
			return fmt.Errorf("let user %d through: %w", user, err)
		}
	}
	return nil
}

// barred gives the directories on the way to one that a user cannot pass yet, with
// the modes that they need; it fails where one of them is not to be opened.
func (v *Vault) barred(dir string, user int) (map[string]os.FileMode, error) {
	modes := map[string]os.FileMode{}
	for at := dir; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil {
			return nil, fmt.Errorf("let user %d through: %w", user, err)
		}
		if !passes(info, user) {
			named := at == v.config.Dir || at == v.config.StagingDir
			if !v.made(at) && (!named || !closed(at)) {
				return nil, fault.WithHint(fault.New(fault.Precondition, "user %d cannot reach a staging directory: %s is not for others", user, at),
					fmt.Sprintf("chmod 711 %s, or set vault.staging_dir to a directory that all users can reach", at))
			}
			modes[at] = info.Mode().Perm() | passBits
		}
		if at == filepath.Dir(at) {
			return modes, nil
		}
	}
}

// nobody is a user who owns nothing.
const nobody = 65534

// ForOthers says why processes of other users could not save here, with what to do;
// nil: they can.
func (v *Vault) ForOthers() error {
	if os.Geteuid() != 0 {
		return notRoot(nobody)
	}
	_, err := v.barred(v.disk, nobody)
	return err
}

func notRoot(user int) error {
	return fault.WithHint(fault.New(fault.Precondition, "this agent, of user %d, cannot give a directory to user %d", os.Geteuid(), user),
		"run the agent of a node that several users train on as root, or this user's training with an agent of its own")
}

// made tells whether a directory is one that the vault makes and nobody else.
func (v *Vault) made(dir string) bool {
	below := v.config.StagingDir
	if below == "" {
		below = v.config.Dir
	}
	if strings.HasPrefix(dir, below+"/") {
		return true
	}
	memory := filepath.Dir(v.memory) // of all vaults of this user
	return v.memory != "" && (dir == memory || strings.HasPrefix(dir, memory+"/"))
}

// passes tells whether a user can go through a directory.
func passes(info os.FileInfo, user int) bool {
	if ownerOf(info) == user {
		return info.Mode().Perm()&0o100 != 0
	}
	return info.Mode().Perm()&passBits == passBits
}

// closed tells whether nothing in a directory is open to others.
func closed(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && !slices.ContainsFunc(entries, func(entry os.DirEntry) bool {
		info, err := entry.Info()
		return err != nil || info.Mode().Perm()&0o077&^passBits != 0
	})
}

// roomFor refuses another user's checkpoint that says it has more bytes than the vault
// has room for: a file with holes takes none where it is staged, and all that there
// is once it is sealed.
func (v *Vault) roomFor(s *staging, sizeBytes int64) error {
	if s.Owner == nil {
		return nil
	}
	free, err := freeBytes(v.config.Dir)
	if err != nil {
		return fmt.Errorf("look for room: %w", err)
	}
	if sizeBytes > free {
		return fault.New(fault.Exhausted, "the checkpoint has %d bytes, and the vault room for %d", sizeBytes, free)
	}
	return nil
}

// goneName is the directory of a staging root with what could not be removed.
const goneName = ".gone"

// putAway moves a staging directory that could not be removed, as its owner adds to
// it meanwhile, to where nobody looks for it and its owner has no way to. It is
// removed later. The vault's lock is held.
func (v *Vault) putAway(s *staging) error {
	gone := filepath.Join(filepath.Dir(filepath.Dir(filepath.Dir(s.dir))), goneName)
	to := filepath.Join(gone, uuid.NewString())
	if err := errors.Join(v.deps.FS.MkdirAll(gone, 0o700), v.deps.FS.Rename(s.dir, to)); err != nil {
		return err
	}
	v.removeLater(to)
	return nil
}

// clearGone removes what is left of what could not be removed.
func (v *Vault) clearGone() {
	for _, root := range []string{v.memory, v.disk} {
		if root == "" {
			continue
		}
		if err := v.deps.FS.RemoveAll(filepath.Join(root, goneName)); err != nil {
			v.deps.Log.Warn("remove staging directories", "directory", root, "error", err)
		}
	}
}

// ownerOf gives whose a file is; -1 where that is not known.
func ownerOf(info os.FileInfo) int {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(stat.Uid)
	}
	return -1
}

// sameUser compares whose something is; nil is the agent's own user.
func sameUser(a, b *int) bool {
	return (a == nil) == (b == nil) && (a == nil || *a == *b)
}

// foreign tells whether a run's latest checkpoint is another user's. Each node knows
// whose a run is there; nodes that share the vault learn it of the other by this.
func (v *Vault) foreign(runID string, user *int) bool {
	id, err := readLatest(v.runDir(runID))
	if err != nil {
		return false
	}
	ranks, err := os.ReadDir(filepath.Join(v.runDir(runID), id))
	if err != nil {
		return false
	}
	for _, rank := range ranks {
		if _, ok := parseRank(rank.Name()); ok {
			m, _, err := readManifest(filepath.Join(v.runDir(runID), id, rank.Name()))
			return err == nil && !sameUser(m.Owner, user)
		}
	}
	return false
}

// listFor is List for whoever goes on from one: another user's is not fit.
func (v *Vault) listFor(req ResolveRequest) ([]Checkpoint, error) {
	list, err := v.List(req.RunID)
	for i := range list {
		for _, m := range list[i].Ranks {
			if list[i].Problem == "" && !sameUser(m.Owner, req.User) {
				list[i].Problem = "it is another user's"
			}
		}
	}
	return list, err
}
