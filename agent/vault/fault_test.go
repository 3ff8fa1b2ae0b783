package vault_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
	"github.com/vigil-ml/vigil/internal/testkit/faultfs"
)

// Every operation in turn fails once. Nothing that does not verify is ever
// resumed from, and the next start makes up for what failed.
func TestEveryOperationFails(t *testing.T) {
	for at := 1; ; at++ {
		dir := t.TempDir()
		old, fresh := healthy("old", 1), healthy("fresh", 2)
		before := open(t, dir, durable.OS{})
		stop := before.run()
		before.mustSave(old)
		before.wait("old", "VERIFIED")
		testkit.Eventually(t, "queue to be empty", func() bool { return before.Saved("run", "old") })
		stop()

		fsys := faultfs.New()
		b := open(t, dir, fsys)
		n := 0
		var hit atomic.Value
		fsys.FailWith(func(op faultfs.Op, path string) error {
			if n++; n == at {
				hit.Store(string(op) + " " + path)
				return syscall.EIO
			}
			return nil
		})
		err := b.save(fresh)
		stop = b.run()
		if err == nil {
			testkit.Eventually(t, "an end after a failure", func() bool {
				s := b.states("fresh")
				return strings.HasSuffix(s, "VERIFIED") || strings.HasSuffix(s, "FAILED")
			})
		}
		id, _ := b.resolve(0, 1)
		failed, _ := hit.Load().(string)
		// The mark may be there although its last sync failed and FAILED was told.
		if ended := b.states("fresh"); strings.HasSuffix(ended, "VERIFIED") && id != "fresh" || id == "" {
			t.Errorf("%s failed: %s, and resolved %q", failed, ended, id)
		}
		checkResolved(t, b, map[string]part{"old": old, "fresh": fresh}[id])
		stop()
		if failed == "" {
			if at < 25 {
				t.Errorf("saving took only %d operations: the test does not see them", at)
			}
			return
		}

		after := open(t, dir, durable.OS{})
		if err != nil { // the trainer was told, and tries again; the mark may be there all the same
			if err := after.save(fresh); err != nil && !fault.Is(err, fault.Exists) {
				t.Errorf("%s failed: save again: %v", failed, err)
			}
		}
		after.run()
		if id, passed := after.resolve(0, 1); id != "fresh" {
			t.Errorf("%s failed: after a restart resolved %q, passed over %v", failed, id, passed)
		}
		checkResolved(t, after, fresh)
	}
}

// A disk that is full for a while costs time; one that stays full costs the
// checkpoint, and what was staged waits for the next start.
func TestFullDisk(t *testing.T) {
	for _, tc := range []struct {
		name     string
		failures int32
		states   string
	}{
		{"for a while", 3, "STAGED DURABLE VERIFIED"},
		{"for good", 1 << 30, "STAGED FAILED"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				fsys := faultfs.New()
				b := open(t, dir, fsys, func(c *vault.Config) { c.Retries, c.RetryDelay = 3, time.Minute })
				b.mustSave(healthy("ck", 1))
				var left atomic.Int32
				left.Store(tc.failures)
				fsys.FailWith(func(op faultfs.Op, _ string) error {
					if op == faultfs.Write && left.Add(-1) >= 0 {
						return syscall.ENOSPC
					}
					return nil
				})
				start := time.Now()
				stop := b.run()
				time.Sleep(time.Hour)
				stop()
				if got := b.states("ck"); got != tc.states {
					t.Errorf("states: %s; want %s", got, tc.states)
				}
				last := b.last("ck")
				if took := last.Time.AsTime().Sub(start); took < 21*time.Minute || took > 22*time.Minute {
					t.Errorf("it took %s; want the three delays of 1, 4 and 16 minutes", took)
				}
				if text := last.GetCheckpoint().Error; strings.HasSuffix(tc.states, "FAILED") && !strings.Contains(text, "no space left") {
					t.Errorf("reason: %q", text)
				}
			})
			after := open(t, dir, durable.OS{})
			after.run()
			if id, _ := after.resolve(0, 1); id != "ck" {
				t.Errorf("after a restart with room resolved %q", id)
			}
		})
	}
}

// A disk that says yes and writes something else is found out by reading back,
// and the staged files are sealed anew.
func TestDiskThatLies(t *testing.T) {
	dir := t.TempDir()
	lying := &lyingFS{FS: durable.OS{}}
	b := open(t, dir, lying, func(c *vault.Config) { c.Retries = 2 })
	lying.lies.Store(1)
	b.run()
	p := healthy("ck", 1)
	b.mustSave(p)
	b.wait("ck", "VERIFIED")
	if got := b.states("ck"); got != "STAGED DURABLE DURABLE VERIFIED" {
		t.Errorf("states: %s", got)
	}
	checkResolved(t, b, p)

	lying.lies.Store(1 << 30)
	b.mustSave(healthy("worse", 2))
	b.wait("worse", "FAILED")
	if text := b.last("worse").GetCheckpoint().Error; !strings.Contains(text, `file "weights.bin"`) {
		t.Errorf("reason %q does not name the file", text)
	}
	if id, passed := b.resolve(0, 1); id != "ck" {
		t.Errorf("resolved %q, passed over %v", id, passed)
	}
}

// lyingFS flips a bit of what is written to weights.bin.
type lyingFS struct {
	durable.FS
	lies atomic.Int32
}

func (l *lyingFS) OpenFile(path string, flag int, perm os.FileMode) (durable.File, error) {
	f, err := l.FS.OpenFile(path, flag, perm)
	if err != nil || filepath.Base(path) != "weights.bin" || l.lies.Add(-1) < 0 {
		return f, err
	}
	return lyingFile{f}, nil
}

type lyingFile struct{ durable.File }

func (f lyingFile) Write(p []byte) (int, error) {
	changed := append([]byte(nil), p...)
	changed[len(changed)/2] ^= 1
	return f.File.Write(changed)
}

// A stop in the middle is no failure: the next start goes on.
func TestShutdownWhileSealing(t *testing.T) {
	dir := t.TempDir()
	fsys := faultfs.New()
	b := open(t, dir, fsys)
	reached, release := make(chan struct{}), make(chan struct{})
	b.mustSave(healthy("ck", 1))
	var once atomic.Bool
	fsys.FailWith(func(op faultfs.Op, _ string) error {
		if op == faultfs.Write && once.CompareAndSwap(false, true) {
			close(reached)
			<-release
		}
		return nil
	})
	stop := b.run()
	<-reached
	done := make(chan struct{})
	go func() { stop(); close(done) }()
	// Stop has asked the vault to end once its context has; let the write go on.
	close(release)
	<-done
	after := open(t, dir, durable.OS{})
	after.run()
	if id, _ := after.resolve(0, 1); id != "ck" {
		t.Errorf("resolved %q", id)
	}
	if got := b.states("ck"); strings.Contains(got, "FAILED") {
		t.Errorf("a stop was told as a failure: %s", got)
	}
}
