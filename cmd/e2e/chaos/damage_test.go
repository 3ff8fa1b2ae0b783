package chaos

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// damage is what was done to a file of a checkpoint.
type damage struct {
	checkpoint string
	file       string // below the run's directory
	at         time.Time
	path       string
	left       string // digest of the file as the damage left it; empty: it is gone
}

// still tells whether the file is as the damage left it. A checkpoint whose agent
// was killed before it removed the staged copy is sealed anew when it is damaged,
// and then it is sound.
func (d damage) still() bool { return digestOf(d.path) == d.left }

func digestOf(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// damage breaks a file that the vault keeps, and notes it; false when there is
// none yet.
func (w *world) damage(b blow) bool {
	run := filepath.Join(w.vault(), runID)
	var files []string
	_ = filepath.WalkDir(run, func(path string, entry os.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			files = append(files, path)
		}
		return nil
	})
	if len(files) == 0 {
		return false
	}
	slices.Sort(files)
	random := rand.New(rand.NewPCG(b.draw, 0))
	path := files[random.IntN(len(files))]
	if !breakFile(path, b.kind, random) {
		return false
	}
	name, _ := filepath.Rel(run, path)
	checkpoint, _, inside := strings.Cut(name, "/")
	// What is being sealed is no checkpoint yet: it is sealed again when it does
	// not read back. The marks, that it was read back, copied or gone on from, are
	// not part of a checkpoint: it is read once more before it is named.
	part := filepath.Base(path) == "manifest.json" || strings.Contains(name, "/files/")
	if inside && !strings.Contains(checkpoint, ".partial-") && part {
		w.ledger = append(w.ledger, damage{checkpoint: checkpoint, file: name, at: time.Now(), path: path, left: digestOf(path)})
	}
	return true
}

// breakFile does to a file what a blow says, and tells whether it did.
func breakFile(path string, how kind, random *rand.Rand) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	switch how {
	case removeFile:
		return os.Remove(path) == nil
	case tearFile:
		return os.Truncate(path, random.Int64N(max(1, info.Size()))) == nil
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil || info.Size() == 0 {
		return false
	}
	defer func() { _ = file.Close() }()
	at := random.Int64N(info.Size())
	one := make([]byte, 1)
	if _, err := file.ReadAt(one, at); err != nil {
		return false
	}
	one[0] ^= 1 << random.IntN(8)
	_, err = file.WriteAt(one, at)
	return err == nil
}

// fill takes all the room of the vault's file system.
func (w *world) fill() {
	file, err := os.OpenFile(w.filler(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer func() { _ = file.Close() }()
	var room syscall.Statfs_t
	if syscall.Statfs(w.vault(), &room) == nil {
		_ = syscall.Fallocate(int(file.Fd()), 0, 0, int64(room.Bavail)*room.Bsize)
	}
	block := make([]byte, 4096)
	end, _ := file.Seek(0, 2)
	for {
		n, err := file.WriteAt(block, end)
		if err != nil {
			return
		}
		end += int64(n)
	}
}

// resumption is one time that a trainer went on from a checkpoint.
type resumption struct {
	checkpoint string
	asked      time.Time // when its process began, before it asked where to go on
}

// story is what the log of supervisor and trainer tells.
type story struct {
	attempts    int
	resumptions []resumption
	refused     []string // checkpoints that the vault named and the trainer could not read
	digest      string
}

// read reads the log.
func read(log string) story {
	var (
		s       story
		started time.Time
		resumed = regexp.MustCompile(`^time=(\S+) .*msg=resumed .*checkpoint=(\S+)`)
		train   = regexp.MustCompile(`^time=(\S+) .*msg=train `)
		refused = regexp.MustCompile(`resume from checkpoint (\S+): `)
		digest  = regexp.MustCompile(`^parameters sha256 ([0-9a-f]{64})$`)
	)
	for line := range strings.SplitSeq(log, "\n") {
		if m := train.FindStringSubmatch(line); m != nil {
			started, _ = time.Parse(time.RFC3339, m[1])
			s.attempts++
		} else if m := resumed.FindStringSubmatch(line); m != nil {
			s.resumptions = append(s.resumptions, resumption{checkpoint: m[2], asked: started})
		} else if m := refused.FindStringSubmatch(line); m != nil && !slices.Contains(s.refused, m[1]) {
			s.refused = append(s.refused, m[1])
		} else if m := digest.FindStringSubmatch(line); m != nil {
			s.digest = m[1]
		}
	}
	return s
}

// bad gives the resumptions that must not have been: from a checkpoint that was
// damaged before its trainer asked for one, or that is not healthy.
func (w *world) bad(s story) (all []string) {
	for _, r := range s.resumptions {
		for _, d := range w.ledger {
			if d.checkpoint == r.checkpoint && d.at.Before(r.asked) && d.still() {
				all = append(all, r.checkpoint+" was damaged before: "+d.file)
			}
		}
		paths, _ := filepath.Glob(filepath.Join(w.vault(), runID, r.checkpoint, "rank-*", "manifest.json"))
		for _, path := range paths {
			var manifest struct{ Health string }
			text, _ := os.ReadFile(path)
			if json.Unmarshal(text, &manifest) == nil && manifest.Health != "healthy" {
				all = append(all, r.checkpoint+" is "+manifest.Health)
			}
		}
	}
	return all
}
