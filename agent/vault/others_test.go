package vault_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/agent/vault"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

const (
	ada = 64001
	bob = 64002
)

func (b *bench) begin(id string, uid, size int) (string, error) {
	_, dir, err := b.Begin(b.t.Context(), vault.BeginRequest{RunID: "run", CheckpointID: id, SizeBytes: int64(size), User: &uid})
	return dir, err
}

func (b *bench) commit(id string, step int64) error {
	return b.Commit(b.t.Context(), vault.CommitRequest{RunID: "run", CheckpointID: id, Metadata: &commonv1.CheckpointMetadata{
		Step: step, WorldSize: 1, NonfiniteParameters: proto.Int64(0)}})
}

const mib = 1 << 20

// TestATrainerOfAnotherUser saves and goes on as any other, in places that only its
// user and the agent can enter.
func TestATrainerOfAnotherUser(t *testing.T) {
	for name, change := range map[string]func(*vault.Config){
		"a directory of its own": func(*vault.Config) {},
		"below the vault":        func(c *vault.Config) { c.StagingDir = "" },
		"encrypted":              encrypted(t),
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t, testkit.SharedDir(t), durable.OS{}, change)
			b.run()
			dir, err := b.begin("ck", ada, 0)
			if err != nil {
				t.Fatalf("%v (%s)", err, fault.HintOf(err))
			}
			testkit.Can(t, ada, `umask 077; cd "$1" && printf weights >w && mkdir optimizer && printf moments >optimizer/m`, dir)
			for _, script := range []string{`ls "$1"`, `cat "$1/w"`, `echo x >"$1/planted"`, `echo x >"$1/../planted"`, `ln -s / "$1/../planted"`, `rm -rf "$1/w"`} {
				testkit.Cannot(t, bob, script, dir)
			}
			for _, script := range []string{`ls "$1/.."`, `cat "$1/../begin.json"`, `rm "$1/../begin.json"`, `mv "$1" "$1.away"`, `ls "$1/../.."`} {
				testkit.Cannot(t, ada, script, dir)
			}
			if err := b.commit("ck", 1); err != nil {
				t.Fatal(err)
			}
			b.wait("ck", "VERIFIED")

			resume := func(uid int) (*commonv1.CheckpointRef, string) {
				ref, passed, err := b.Resolve(t.Context(), vault.ResolveRequest{RunID: "run", WorldSize: 1, User: &uid})
				if err != nil {
					t.Fatal(err)
				}
				return ref, fmt.Sprint(passed)
			}
			ref, _ := resume(ada)
			if got := testkit.Can(t, ada, `cd "$1" && cat w optimizer/m`, ref.GetDirectory()); got != "weightsmoments" {
				t.Errorf("she goes on from %q", got)
			}
			testkit.Cannot(t, bob, `cat "$1/w"`, ref.GetDirectory())
			for _, uid := range []uint32{ada, bob} {
				testkit.Cannot(t, uid, `cat "$1"/run/ck/rank-00000/files/w`, filepath.Join(b.dir, "vault"))
				testkit.Cannot(t, uid, `ls "$1"`, filepath.Join(b.dir, "vault"))
			}

			// It is hers, whoever asks on another node that shares the vault.
			if ref, passed := resume(bob); ref != nil || !strings.Contains(passed, "it is another user's") {
				t.Errorf("another user goes on from %v; passed over %s", ref, passed)
			}
			if ref, passed, err := b.Resolve(t.Context(), vault.ResolveRequest{RunID: "run", WorldSize: 1}); ref != nil || len(passed) != 1 || err != nil {
				t.Errorf("the agent's own user goes on from %v; passed over %v, %v", ref, passed, err)
			}
			if _, err := b.begin("his", bob, 0); !fault.Is(err, fault.Denied) {
				t.Errorf("another user saves a checkpoint of her run: %v", err)
			}
		})
	}
}

// TestAnotherUsersFilesAreWrittenOver: in memory her next checkpoint is written over
// the one before, and nobody else's is.
func TestAnotherUsersFilesAreWrittenOver(t *testing.T) {
	b := open(t, testkit.SharedDir(t), durable.OS{}, func(c *vault.Config) { c.StagingDir = "" })
	b.run()
	save := func(id string, step int64, script string) {
		t.Helper()
		dir, err := b.begin(id, ada, 2*mib)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(dir, "/dev/shm/") {
			t.Skipf("staging is not in memory here: %s", dir)
		}
		testkit.Cannot(t, bob, `ls "$1/../spare"`, dir)
		testkit.Can(t, ada, script, dir)
		if err := b.commit(id, step); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, id+" to be sealed", func() bool { return b.Saved("run", id) })
	}
	save("first", 1, `head -c 2097152 /dev/zero >"$1/w"`)
	save("second", 2, `mv "$1/../spare/0" "$1/w" && printf new | dd of="$1/w" conv=notrunc 2>/dev/null`)
	got, err := os.ReadFile(filepath.Join(b.dir, "vault/run/second/rank-00000/files/w"))
	if err != nil || len(got) != 2*mib || string(got[:4]) != "new\x00" {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	// She keeps a name of the file: it is not given to anybody.
	kept := fmt.Sprint("/dev/shm/vigil-test-", os.Getpid())
	t.Cleanup(func() { _ = os.Remove(kept) })
	save("third", 3, `mv "$1/../spare/0" "$1/w" && ln "$1/w" `+kept)
	dir, err := b.begin("fourth", ada, 2*mib)
	if err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "../spare")); len(left) > 0 {
		t.Errorf("%d spare files", len(left))
	}
	b.Abandon("run", "fourth", 0)
}

// TestTricksOfAnotherUser: whatever she puts into her directory, the agent, which may
// read all, takes only what is hers.
func TestTricksOfAnotherUser(t *testing.T) {
	home := testkit.SharedDir(t)
	open666 := filepath.Join(home, "open") // the kernel lets her link to what she could write to
	if err := os.WriteFile(open666, []byte("root's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open666, 0o666); err != nil {
		t.Fatal(err)
	}
	b := open(t, home, durable.OS{})
	b.run()
	for i, script := range []string{
		`ln -s /etc/shadow "$1/w"`, `ln -s /etc "$1/w"`, `ln -s ../begin.json "$1/w"`, `mkfifo "$1/w"`, `ln "$2" "$1/w"`, `ln -s "$1" "$1/self"`,
	} {
		id := fmt.Sprint("trick-", i)
		dir, err := b.begin(id, ada, 0)
		if err != nil {
			t.Fatal(err)
		}
		testkit.Can(t, ada, script, dir, open666)
		if err := b.commit(id, 1); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: commit = %v", script, err)
		}
		// And after the commit.
		if err := os.Remove(filepath.Join(dir, "w")); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		testkit.Can(t, ada, `rm -f "$1/self"; echo mine >"$1/mine"`, dir)
	}
	for id := range 6 {
		b.Abandon("run", fmt.Sprint("trick-", id), 0)
	}
}

// TestCheckpointsThatGrow: a file of holes takes nothing where it is staged, and would
// take all of the vault's disk; so would one that is written to while it is sealed.
func TestCheckpointsThatGrow(t *testing.T) {
	b := open(t, testkit.SharedDir(t), durable.OS{}, func(c *vault.Config) { c.Retries = 5 })
	dir, err := b.begin("holes", ada, 0)
	if err != nil {
		t.Fatal(err)
	}
	testkit.Can(t, ada, `truncate -s 4E "$1/w" || truncate -s 8T "$1/w"`, dir)
	if err := b.commit("holes", 1); !fault.Is(err, fault.Exhausted) {
		t.Errorf("a file of holes: commit = %v", err)
	}
	if dir, err = b.begin("grows", ada, 0); err != nil {
		t.Fatal(err)
	}
	testkit.Can(t, ada, `echo weights >"$1/w"`, dir)
	if err := b.commit("grows", 1); err != nil {
		t.Fatal(err)
	}
	testkit.Can(t, ada, `truncate -s 8T "$1/w"`, dir)
	b.run()
	b.wait("grows", "FAILED")
	testkit.Eventually(t, "it to be removed", func() bool { _, err := os.Lstat(dir); return err != nil })
	if partial, _ := filepath.Glob(filepath.Join(b.dir, "vault/run/*")); len(partial) > 0 {
		t.Errorf("left in the vault: %v", partial)
	}
}

// TestNamesThatChange: while the agent reads and moves her files, she has their names
// lead to a directory of root's and back. Nothing of root's is read, or moved.
func TestNamesThatChange(t *testing.T) {
	home := testkit.SharedDir(t)
	secrets, err := os.MkdirTemp("/dev/shm", "vigil-secrets-") // where a rename would reach it
	if err != nil {
		t.Skipf("no memory to stage in: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(secrets) })
	secret := strings.Repeat("root's ", 2*mib/7)
	if err := os.WriteFile(filepath.Join(secrets, "w"), []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	b := open(t, home, durable.OS{}, func(c *vault.Config) { c.StagingDir = "" })
	b.run()
	sealed := 0
	for i := range 15 {
		id := fmt.Sprint("ck", i)
		dir, err := b.begin(id, ada, 2*mib)
		if err != nil {
			t.Fatal(err)
		}
		testkit.Can(t, ada, `cd "$1" && mkdir d && { mv ../spare/0 d/w 2>/dev/null || head -c 2097152 /dev/zero >d/w; }`, dir)
		swaps := testkit.ShellAs(ada, `cd "$1" && while mv d e && ln -s "$2" d && rm d && mv e d; do :; done 2>/dev/null`, dir, secrets)
		if err := swaps.Start(); err != nil {
			t.Fatal(err)
		}
		if b.commit(id, int64(i)) == nil {
			testkit.Eventually(t, id+" to end", func() bool {
				return strings.HasSuffix(b.states(id), "VERIFIED") || strings.HasSuffix(b.states(id), "FAILED")
			})
			testkit.Eventually(t, id+" to be removed", func() bool { _, err := os.Lstat(dir); return err != nil })
		} else {
			b.Abandon("run", id, 0)
		}
		_ = swaps.Process.Kill()
		_ = swaps.Wait()
		if data, err := os.ReadFile(filepath.Join(b.dir, "vault/run", id, "rank-00000/files/d/w")); err == nil {
			sealed++
			if strings.Contains(string(data), "root") {
				t.Fatal("root's file is in her checkpoint")
			}
		}
		if data, err := os.ReadFile(filepath.Join(secrets, "w")); err != nil || string(data) != secret {
			t.Fatalf("root's file is not what it was: %d bytes, %v", len(data), err)
		}
	}
	t.Logf("%d of 15 were sealed", sealed)
}

// TestAPlaceThatOthersCannotReach: it is said what to do, and what is not the vault's
// is not opened.
func TestAPlaceThatOthersCannotReach(t *testing.T) {
	home := testkit.SharedDir(t)
	if err := os.Chmod(home, 0o700); err != nil {
		t.Fatal(err)
	}
	closed := open(t, home, durable.OS{})
	if err := closed.ForOthers(); !strings.Contains(fault.HintOf(err), "chmod 711 "+home) {
		t.Errorf("what the agent says when it starts: %v", err)
	}
	_, err := closed.begin("ck", ada, 0)
	if !fault.Is(err, fault.Precondition) || !strings.Contains(fault.HintOf(err), "chmod 711 "+home) {
		t.Errorf("above the staging directory: %v (%s)", err, fault.HintOf(err))
	}
	if left, err := os.ReadDir(filepath.Join(home, "staging")); err != nil || len(left) > 0 {
		t.Errorf("what was begun for her is left: %v, %v", left, err)
	}
	if info, err := os.Stat(home); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("it was opened: %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(home, 0o755); err != nil {
		t.Fatal(err)
	}
	staging := filepath.Join(home, "staging")
	if err := os.WriteFile(filepath.Join(staging, "somebody's"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	b := open(t, home, durable.OS{})
	if _, err := b.begin("ck", ada, 0); !fault.Is(err, fault.Precondition) {
		t.Errorf("a staging directory with what others could read: %v", err)
	}
	if err := os.Remove(filepath.Join(staging, "somebody's")); err != nil {
		t.Fatal(err)
	}
	if err := b.ForOthers(); err != nil {
		t.Errorf("a place that others can reach: %v", err)
	}
	if _, err := b.begin("ck", ada, 0); err != nil {
		t.Errorf("a staging directory of the vault's own: %v", err)
	}
}

// TestOneUserDoesNotTakeAllPlaces: checkpoints that are begun are bounded by user.
func TestOneUserDoesNotTakeAllPlaces(t *testing.T) {
	b := open(t, testkit.SharedDir(t), durable.OS{}, func(c *vault.Config) { c.MaxStaged = 32 })
	begin := func(run string, uid int) error {
		_, _, err := b.Begin(t.Context(), vault.BeginRequest{RunID: run, User: &uid})
		return err
	}
	for i := range 40 {
		if err := begin(fmt.Sprint("hers-", i), ada); (err == nil) != (i < 16) || (err != nil && !fault.Is(err, fault.Exhausted)) {
			t.Errorf("her checkpoint %d: %v", i, err)
		}
	}
	if err := begin("his", bob); err != nil {
		t.Errorf("another user: %v", err)
	}
}
