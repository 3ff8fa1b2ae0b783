// Package daemon is the outside of a program that runs until it is told to
// stop: flags, configuration file, signals, the last error and the exit code.
package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/redact"
	"github.com/vigil-ml/vigil/internal/version"
)

// Program is a daemon with a configuration of type C.
type Program[C any] struct {
	// Name is what it is called on the command line.
	Name string
	// Summary says in one sentence what it does.
	Summary string
	// Defaults is the configuration of someone who has no file.
	Defaults func() C
	// Check finds the mistakes in a configuration that decoding cannot see, for
	// instance in the settings of extensions. It starts nothing.
	Check func(config C) error
	// Run runs until ctx ends; its logs go to w.
	Run func(ctx context.Context, config C, w io.Writer) error
	// RunReloading is Run for a program that takes another configuration while
	// it runs: SIGHUP has the file read again, and what comes is good. With a
	// mistake in it nothing comes, every mistake is said on w, and the program
	// goes on with what it has. It receives until it ends.
	RunReloading func(ctx context.Context, config C, reloads <-chan C, w io.Writer) error
	// Flags adds the program's own flags, and gives what lays them over a
	// configuration that was read. May be nil.
	Flags func(flags *flag.FlagSet) (over func(config *C))

	over func(config *C) // what Flags gave; nil without it
}

// Main runs the program and gives its exit code. SIGINT and SIGTERM stop it in
// order; a second one kills it.
func (p Program[C]) Main(args []string, stdout, stderr io.Writer) int {
	config, path, done, err := p.parse(args, stdout)
	if done || err != nil {
		return p.end(err, stderr)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	if p.RunReloading != nil {
		return p.end(p.runReloading(ctx, config, path, stderr), stderr)
	}
	return p.end(p.Run(ctx, config, stderr), stderr)
}

// runReloading runs the program and reads its configuration again at SIGHUP.
func (p Program[C]) runReloading(ctx context.Context, config C, path string, w io.Writer) error {
	hangups := make(chan os.Signal, 1) // one that waits stands for all
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	reloads := make(chan C)
	return life.All(ctx,
		life.Task{Name: p.Name, Run: func(ctx context.Context) error {
			return p.RunReloading(ctx, config, reloads, w)
		}},
		life.Task{Name: "reload", Run: func(ctx context.Context) error {
			return p.reload(ctx, path, hangups, reloads, w)
		}})
}

func (p Program[C]) reload(ctx context.Context, path string, hangups <-chan os.Signal, reloads chan<- C, w io.Writer) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-hangups:
		}
		config, err := p.load(path)
		if err != nil {
			_, _ = fmt.Fprintf(w, "%s: reload: the old configuration stays\n", p.Name)
			p.end(err, w)
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case reloads <- config:
		}
	}
}

// load reads and checks a configuration.
func (p Program[C]) load(path string) (C, error) {
	config := p.Defaults()
	err := conf.Load(path, &config)
	if p.over != nil {
		p.over(&config)
	}
	if _, mistakes := errors.AsType[conf.Problems](err); err != nil && !mistakes {
		return config, err
	}
	// What decoding can see and what only the parts can see is told together.
	return config, conf.Join(err, p.Check(config))
}

// parse reads flags and configuration; done says that nothing is left to do.
func (p *Program[C]) parse(args []string, stdout io.Writer) (config C, file string, done bool, err error) {
	flags := flag.NewFlagSet(p.Name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	path := flags.String("config", "", "configuration `file` (YAML); without one the defaults hold")
	check := flags.Bool("check", false, "check the configuration and end")
	show := flags.Bool("version", false, "show the version and end")
	if p.Flags != nil {
		p.over = p.Flags(flags)
	}
	err = flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		_, _ = fmt.Fprintf(stdout, "%s\n\nUsage: %s [flags]\n", p.Summary, p.Name)
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return config, "", true, nil
	case err != nil:
		return config, "", false, fault.WithHint(fault.Mark(fault.Invalid, err), p.Name+" --help lists the flags")
	case flags.NArg() > 0:
		return config, "", false, fault.New(fault.Invalid, "argument %q is not expected", flags.Arg(0))
	case *show:
		_, _ = fmt.Fprintf(stdout, "%s %s\n", p.Name, version.String())
		return config, "", true, nil
	}
	if config, err = p.load(*path); err != nil {
		return config, *path, false, err
	}
	if *check {
		_, _ = fmt.Fprintln(stdout, "the configuration is good")
	}
	return config, *path, *check, nil
}

// end says why the program ends, for a person.
func (p Program[C]) end(err error, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	secrets, _ := redact.New(redact.Config{Secrets: true}) // without patterns of the user's it cannot fail
	for line := range strings.SplitSeq(secrets.Text(err.Error()), "\n") {
		_, _ = fmt.Fprintf(stderr, "%s: %s\n", p.Name, line)
	}
	if hint := fault.HintOf(err); hint != "" {
		_, _ = fmt.Fprintf(stderr, "%s: hint: %s\n", p.Name, hint)
	}
	return fault.ExitCode(err)
}
