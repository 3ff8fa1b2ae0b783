package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/vigil-ml/vigil/internal/fault"
)

const (
	defaultServer  = "127.0.0.1:8080"
	defaultTimeout = 10 * time.Second
)

// app is what every command has: the flags that all share, and where output
// goes.
type app struct {
	stdout, stderr io.Writer
	getenv         func(string) string
	browse         func(ctx context.Context, at string) error // opens a browser

	server    string
	tokenFile string
	caFile    string
	timeout   time.Duration
	output    format
	noColor   bool
	width     int  // columns of the terminal; 0 when the output is not one
	running   bool // arguments were fine: what fails now is not a usage error
}

func newApp(stdout, stderr io.Writer, getenv func(string) string) *app {
	a := &app{stdout: stdout, stderr: stderr, getenv: getenv, browse: openBrowser, output: formatTable}
	if file, ok := stdout.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		a.width = 100
		if columns, _, err := term.GetSize(int(file.Fd())); err == nil && columns > 0 {
			a.width = columns
		}
	}
	return a
}

// color tells whether output may be coloured. https://no-color.org
func (a *app) color() bool {
	return a.width > 0 && !a.noColor && a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb"
}

func rootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "agentctl",
		Short: "Ask the Vigil control plane, and have runs saved",
		Example: `  agentctl get runs
  agentctl describe run digits-7f3a
  agentctl checkpoint --now --wait`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: func(*cobra.Command, []string) error { a.running = true; return nil },
	}
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	server := a.getenv("VIGIL_SERVER")
	if server == "" {
		server = defaultServer
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.server, "server", server, "`address` of the control plane (env VIGIL_SERVER)")
	flags.StringVar(&a.tokenFile, "token-file", "", "`file` with the token to come in with (env VIGIL_TOKEN_FILE, or VIGIL_TOKEN for the token itself)")
	flags.StringVar(&a.caFile, "ca-file", "", "`file` with the authority by which the control plane is known (env VIGIL_CA_FILE)")
	flags.DurationVar(&a.timeout, "timeout", defaultTimeout, "how long a request may take")
	flags.VarP(&a.output, "output", "o", "table, wide, json or yaml")
	flags.BoolVar(&a.noColor, "no-color", false, "no colours (env NO_COLOR)")
	complete(root, "output", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{"table", "wide", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp
	})
	root.RunE = needsSubcommand
	root.Args = cobra.ArbitraryArgs
	return root
}

// needsSubcommand is the action of a command that does nothing by itself.
func needsSubcommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	hint := cmd.CommandPath() + " --help lists what there is"
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "did you mean: " + cmd.CommandPath() + " " + near[0]
	}
	path := strings.Join(append(strings.Fields(cmd.CommandPath())[1:], args[0]), " ")
	return fault.WithHint(fault.New(fault.Invalid, "there is no command %q", path), hint)
}

// oneArg wants exactly one argument, of which there is a list.
func oneArg(noun, list string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			return nil
		}
		path := strings.Join(strings.Fields(cmd.CommandPath())[1:], " ")
		return fault.WithHint(
			fault.New(fault.Invalid, "%s: want the id of one %s, have %s", path, noun, count(len(args), "argument")), list)
	}
}

// explain gives errors that cobra made, and those of a person's Ctrl-C, their
// kind.
func (a *app) explain(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fault.New(fault.Canceled, "interrupted")
	case !a.running && fault.HintOf(err) == "":
		return fault.WithHint(fault.Mark(fault.Invalid, err), "add --help to the command to see how it is used")
	default:
		return err
	}
}

// report writes an error as a person reads it.
func (a *app) report(err error) {
	if err == nil {
		return
	}
	_, _ = fmt.Fprintf(a.stderr, "agentctl: %v\n", err)
	if hint := fault.HintOf(err); hint != "" {
		_, _ = fmt.Fprintf(a.stderr, "  hint: %s\n", hint)
	}
}

// note tells a person something that is not the answer itself.
func (a *app) note(text string, args ...any) {
	_, _ = fmt.Fprintf(a.stderr, text+"\n", args...)
}
