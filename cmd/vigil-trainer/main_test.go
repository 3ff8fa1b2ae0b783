package main

import (
	"errors"
	"os/exec"
	"regexp"
	"strconv"
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
			return nil
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
