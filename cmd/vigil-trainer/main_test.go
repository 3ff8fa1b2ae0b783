package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	"github.com/vigil-ml/vigil/trainer/trainertest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"vigil-trainer": main})
}

// TestScripts runs every script in testdata. SOCKET is that of an agent that
// answers a non-finite value with an emergency order.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			agent := trainertest.New(t)
			agent.OnEvent = func(event *commonv1.Event) {
				if event.GetNonFinite() != nil {
					agent.Order(event.GetEventId(), &commonv1.CheckpointOrder{
						RunId: event.GetRunId(), CheckpointId: "rescue", Reason: commonv1.CheckpointReason_CHECKPOINT_REASON_EMERGENCY,
						After: commonv1.AfterCheckpoint_AFTER_CHECKPOINT_RESTART, Failure: commonv1.FailureKind_FAILURE_KIND_NONFINITE,
					})
				}
			}
			agent.Start(t)
			env.Defer(agent.Stop)
			env.Setenv("SOCKET", agent.Socket)
			return os.WriteFile(filepath.Join(env.WorkDir, "flowers.csv"), []byte(flowers()), 0o600)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"exits": exits, "samedigest": sameDigest},
	})
}

// exits CODE CMD...: the command exits with the code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d (%v)", got, want, err)
	}
}

// samedigest FILE FILE: both outputs end with the same parameters.
func sameDigest(ts *testscript.TestScript, _ bool, args []string) {
	line := regexp.MustCompile(`(?m)^parameters sha256 [0-9a-f]{64}$`)
	one, two := line.FindString(ts.ReadFile(args[0])), line.FindString(ts.ReadFile(args[1]))
	if one == "" || one != two {
		ts.Fatalf("%q and %q", one, two)
	}
}

func TestRunIDsAreDifferent(t *testing.T) {
	one, two := newRunID("digits"), newRunID("digits")
	if one == two || !regexp.MustCompile(`^digits-[a-z2-7]{6}$`).MatchString(one) {
		t.Errorf("run ids %q and %q", one, two)
	}
}

// flowers is a table that can be learnt: a kind that follows from two sizes, and a
// weight that follows from both and the colour.
func flowers() string {
	var b strings.Builder
	b.WriteString("length,width,colour,kind,weight\n")
	for i := range 400 {
		length, width := math.Sin(float64(i))*3+5, math.Cos(float64(3*i))*2+3
		kind, colour, extra := "rose", "red", 1.0
		if length > width+2 {
			kind = "tulip"
		}
		if i%3 == 0 {
			colour, extra = "white", 4
		}
		_, _ = fmt.Fprintf(&b, "%.3f,%.3f,%s,%s,%.3f\n", length, width, colour, kind, 2*length-width+extra)
	}
	return b.String()
}
