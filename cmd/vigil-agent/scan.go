package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/vigil-ml/vigil/agent"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/fault"
)

const scanHelp = `Looks at this node once with the agent's collectors and ends; no agent needs to run.

Exit code: 0 nothing fails, 2 something fails; with --strict also 1 when something
warns or cannot be told. Fit for SLURM's Prolog and HealthCheckProgram.

Usage: vigil-agent scan [flags]
`

// scan runs `vigil-agent scan` and gives its exit code.
func scan(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("vigil-agent scan", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	path := flags.String("config", "", "the agent's configuration `file` (YAML), for its collectors and scan's thresholds")
	format := flags.String("format", "table", "table or json")
	strict := flags.Bool("strict", false, "exit with 1 when something warns or cannot be told")
	gpu := gpuFlag(flags)
	limit := flags.Duration("timeout", 5*time.Second, "what does not answer by then is stuck")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		_, _ = fmt.Fprint(stdout, scanHelp)
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return 0
	case err != nil:
		err = fault.WithHint(fault.Mark(fault.Invalid, err), "vigil-agent scan --help lists the flags")
	case flags.NArg() > 0:
		err = fault.New(fault.Invalid, "argument %q is not expected", flags.Arg(0))
	case *format != "table" && *format != "json":
		err = fault.New(fault.Invalid, "format is %q; want table or json", *format)
	case *limit < time.Second:
		err = fault.New(fault.Invalid, "timeout is %v; want at least a second", *limit)
	}
	code := 0
	if err == nil {
		code, err = look(*path, *format, *strict, *limit, gpu, stdout)
	}
	if err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			_, _ = fmt.Fprintf(stderr, "vigil-agent: %s\n", line)
		}
		if hint := fault.HintOf(err); hint != "" {
			_, _ = fmt.Fprintf(stderr, "vigil-agent: hint: %s\n", hint)
		}
		return fault.ExitCode(err)
	}
	return code
}

func look(path, format string, strict bool, limit time.Duration, over func(*agent.Config), stdout io.Writer) (code int, err error) {
	config := agent.Defaults()
	if err := conf.Load(path, &config); err != nil {
		return 0, err
	}
	over(&config)
	report, err := agent.Scan(context.Background(), config, limit)
	if err != nil {
		return 0, err
	}
	show := report.Table
	if format == "json" {
		show = report.JSON
	}
	if err := show(stdout); err != nil {
		return 0, fmt.Errorf("write report: %w", err)
	}
	return report.ExitCode(strict), nil
}
