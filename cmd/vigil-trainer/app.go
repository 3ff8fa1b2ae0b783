package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/protocol"
	"github.com/vigil-ml/vigil/internal/telemetry"
	"github.com/vigil-ml/vigil/internal/version"
	"github.com/vigil-ml/vigil/trainer/multitask"
)

const (
	program = "vigil-trainer"

	// What shells exit with when a command cannot be run or is not found.
	exitCannotRun = 126
	exitNotFound  = 127
)

// app is what every command has.
type app struct {
	stdin, stdout, stderr *os.File
	socket                string
	logLevel              string
	code                  int  // to exit with when there is no error
	running               bool // arguments were fine: what fails now is not a usage error
}

// execute runs one command line and gives the exit code.
func execute(ctx context.Context, args []string, stdin, stdout, stderr *os.File) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := &cobra.Command{
		Use:               program,
		Short:             "Run training that is watched, saved and brought back",
		Version:           version.String(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: func(*cobra.Command, []string) error { a.running = true; return nil },
	}
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	flags := root.PersistentFlags()
	flags.StringVar(&a.socket, "socket", os.Getenv(protocol.EnvSocket), "`path` of the agent's socket (env VIGIL_SOCKET); without one nothing is reported or saved")
	flags.StringVar(&a.logLevel, "log-level", "info", "debug, info, warn or error")
	root.AddCommand(runCommand(a), trainCommand(a), evalCommand(a), predictCommand(a), compareCommand(a))
	return a.exit(root.ExecuteContext(ctx))
}

// exit says what went wrong, to a person, and gives the exit code.
func (a *app) exit(err error) int {
	if err == nil {
		return a.code
	}
	if _, ok := errors.AsType[*multitask.Interrupted](err); ok {
		return protocol.RestartExitCode // it was said already
	}
	hint := fault.HintOf(err)
	if !a.running {
		err = fault.Mark(fault.Invalid, err)
		hint = "add --help to the command to see how it is used"
	}
	_, _ = fmt.Fprintf(a.stderr, "%s: %v\n", program, err)
	if hint != "" {
		_, _ = fmt.Fprintf(a.stderr, "%s: hint: %s\n", program, hint)
	}
	if a.code != 0 {
		return a.code
	}
	return fault.ExitCode(err)
}

// logger makes the program's logger, which hands what it logs to others too.
func (a *app) logger(others ...slog.Handler) (*slog.Logger, error) {
	config := telemetry.DefaultLog()
	config.Level = a.logLevel
	var wrong error
	config.Check(func(key, format string, args ...any) {
		wrong = fault.New(fault.Invalid, "--log-%s %s", key, fmt.Sprintf(format, args...))
	})
	return telemetry.Logger(a.stderr, config, others...), wrong
}

// newRunID makes a run's id of a prefix and six random characters.
func newRunID(prefix string) string {
	return prefix + "-" + strings.ToLower(rand.Text()[:6])
}
