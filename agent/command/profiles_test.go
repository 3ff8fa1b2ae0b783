package command_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/agent/command"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

func profileOrder(ranks ...uint32) *commonv1.ProfileOrder {
	return &commonv1.ProfileOrder{RunId: "run", ProfileId: "p", Steps: 3, Ranks: ranks}
}

// profileTold gives what the events said of profiles: "rank STATE error".
func (n *node) profileTold() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var told []string
	for _, e := range n.events {
		if p := e.GetProfile(); p != nil {
			told = append(told, strings.TrimSpace(strings.Join([]string{string(rune('0' + e.Rank)),
				strings.TrimPrefix(p.State.String(), "PROFILE_STATE_"), p.Error}, " ")))
		}
	}
	return strings.Join(told, ", ")
}

func (tr *trainer) profiled(state commonv1.ProfileState, cause string) {
	tr.report(&commonv1.Event{Body: &commonv1.Event_Profile{Profile: &commonv1.ProfileProgress{
		ProfileId: "p", State: state, Error: cause,
	}}})
}

func TestProfileRecords(t *testing.T) {
	const recorded, failed = commonv1.ProfileState_PROFILE_STATE_RECORDED, commonv1.ProfileState_PROFILE_STATE_FAILED
	for _, tc := range []struct {
		name  string
		order *commonv1.ProfileOrder
		do    func(a, b *trainer)
		kind  fault.Kind
		says  string // of the error or the detail
		told  string // of the events
	}{
		{"one rank", profileOrder(1), func(_, b *trainer) { <-b.got; b.profiled(recorded, "") }, 0, "1 recorded in", "1 RECORDED"},
		{"all ranks", profileOrder(), func(a, b *trainer) {
			<-a.got
			a.profiled(commonv1.ProfileState_PROFILE_STATE_DIRECTED, "")
			<-b.got
			b.profiled(recorded, "")
			a.profiled(recorded, "")
		}, 0, "2 recorded in", "0 DIRECTED, 1 RECORDED, 0 RECORDED"},
		{"a rank that is elsewhere", profileOrder(7), func(_, _ *trainer) {}, 0, "none of the ranks is on this node", ""},
		{"it cannot", profileOrder(0), func(a, _ *trainer) { <-a.got; a.profiled(failed, "no torch") },
			fault.Precondition, "rank 0 of run run: no torch", "0 FAILED no torch"},
		{"it dies", profileOrder(0), func(a, _ *trainer) { <-a.got; a.die() },
			fault.Unavailable, "(pid 1) went away", "0 FAILED trainer of run run (pid 1) went away before it was profiled"},
		{"no steps", profileOrder(0), func(a, _ *trainer) { <-a.got },
			fault.Deadline, "in time", "0 FAILED run run made no 3 steps, or no trace of them, in time"},
		{"too many steps", &commonv1.ProfileOrder{RunId: "run", ProfileId: "p", Steps: 101}, func(_, _ *trainer) {}, fault.Invalid, "1 to 100", ""},
		{"a path for an id", &commonv1.ProfileOrder{RunId: "run", ProfileId: "../p", Steps: 1}, func(_, _ *trainer) {}, fault.Invalid, "profile id", ""},
		{"another run", &commonv1.ProfileOrder{RunId: "other", ProfileId: "p", Steps: 1}, func(_, _ *trainer) {}, fault.NotFound, "no trainer of run other", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, dir)
				a, b := n.train(1, 0, 0, 2), n.train(2, 0, 1, 2)
				type answer struct {
					detail string
					err    error
				}
				done := make(chan answer, 1)
				go func() {
					detail, err := n.profiles.Record(context.Background(), tc.order, "cmd", "", time.Now().Add(time.Minute))
					done <- answer{detail, err}
				}()
				tc.do(a, b)
				got := <-done
				if (got.err == nil) != (tc.kind == 0) || (got.err != nil && fault.KindOf(got.err) != tc.kind) ||
					!strings.Contains(got.detail+errorText(got.err), tc.says) {
					t.Errorf("record: %q, %v; want %q (%s)", got.detail, got.err, tc.says, tc.kind)
				}
				if told := n.profileTold(); told != tc.told {
					t.Errorf("told %q; want %q", told, tc.told)
				}
				a.die()
				b.die()
				end(n)
			})
		})
	}
}

// TestProfileOfAProcessThatEnds: a trace that was told is one, though the process
// was seen to go away before.
func TestProfileOfAProcessThatEnds(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, dir)
		a := n.train(1, 0, 0, 1)
		go func() {
			<-a.got
			a.die()
			time.Sleep(100 * time.Millisecond)
			a.profiled(commonv1.ProfileState_PROFILE_STATE_RECORDED, "")
		}()
		if _, err := n.profiles.Record(context.Background(), profileOrder(0), "cmd", "", time.Now().Add(time.Minute)); err != nil {
			t.Errorf("record: %v", err)
		}
		if told := n.profileTold(); told != "0 RECORDED" {
			t.Errorf("told %q", told)
		}
		end(n)
	})
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestProfilesMakeRoom(t *testing.T) {
	dir := t.TempDir()
	old := filepath.Join(dir, "profiles", "run")
	if err := os.MkdirAll(old, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		path := filepath.Join(old, string(rune('A'+i)))
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Unix(int64(1000-i), 0) // the last are the oldest
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	n := newNode(t, dir)
	defer n.stop()
	a := n.train(1, 0, 0, 1)
	defer a.die()
	go func() {
		d := <-a.got
		if diff := cmp.Diff(old, d.GetProfile().GetDirectory()); diff != "" {
			t.Errorf("directory (-want +got):\n%s", diff)
		}
		a.profiled(commonv1.ProfileState_PROFILE_STATE_RECORDED, "")
	}()
	if _, err := n.profiles.Record(t.Context(), profileOrder(0), "cmd", "", time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(old)
	if err != nil || len(left) != 31 || left[0].Name() != "A" || left[30].Name() != string(rune('A'+30)) {
		t.Errorf("%d files are left, %v; want the newest 31", len(left), err)
	}
}

// TestProfilesOfAnotherUser lie where that user can write them, and nobody else looks.
func TestProfilesOfAnotherUser(t *testing.T) {
	home := testkit.SharedDir(t)
	n := newNode(t, home)
	defer n.stop()
	const ada, bob = 64001, 64002
	dir, err := n.profiles.MakeRoom("run", ada)
	if err != nil {
		t.Fatal(err)
	}
	testkit.Can(t, ada, `echo trace >"$1/p.json" && cat "$1/p.json"`, dir)
	for _, script := range []string{`ls "$1/.."`, `mv "$1" "$1.away"`} {
		testkit.Cannot(t, ada, script, dir)
	}
	for _, script := range []string{`cat "$1/p.json"`, `ls "$1"`, `echo x >"$1/planted"`} {
		testkit.Cannot(t, bob, script, dir)
	}
}

func newProfiles(t *testing.T, n *node) *command.Profiles {
	t.Helper()
	return command.NewProfiles(command.ProfileDeps{
		Log: testkit.Logger(t), Clock: time.Now, Trainers: n.sessions, Events: n.write, Dir: filepath.Join(n.dir, "profiles"),
	})
}
