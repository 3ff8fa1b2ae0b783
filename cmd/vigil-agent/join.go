package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/vigil-ml/vigil/agent"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/fault"
)

const joinHelp = `Has this node join a control plane: makes a key here and gets a certificate for it. The
token comes from agentctl join-token create; it also tells the right control plane from
any other. Once is enough: the agent renews the certificate by itself. A node that joined
before needs a token that names it: agentctl join-token create --node NAME.

Usage: vigil-agent join --token TOKEN [flags] HOST:PORT
`

// join runs `vigil-agent join` and gives its exit code.
func join(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("vigil-agent join", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	path := flags.String("config", "", "the agent's configuration `file` (YAML), for its state directory and node name")
	token := flags.String("token", "", "the `token` (env VIGIL_JOIN_TOKEN), or @FILE")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		_, _ = fmt.Fprint(stdout, joinHelp)
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return 0
	case err != nil:
		err = fault.WithHint(fault.Mark(fault.Invalid, err), "vigil-agent join --help lists the flags")
	case flags.NArg() != 1:
		err = fault.New(fault.Invalid, "want the control plane's address, host:port")
	default:
		err = joinAt(*path, cmp.Or(*token, os.Getenv("VIGIL_JOIN_TOKEN")), flags.Arg(0), stdout, stderr)
	}
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "vigil-agent: %v\n", err)
		if hint := fault.HintOf(err); hint != "" {
			_, _ = fmt.Fprintf(stderr, "vigil-agent: hint: %s\n", hint)
		}
	}
	return fault.ExitCode(err)
}

func joinAt(path, token, address string, stdout, stderr io.Writer) error {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return fault.New(fault.Invalid, "address is %q; want host:port", address)
	}
	if file, ok := strings.CutPrefix(token, "@"); ok {
		text, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read token: %w", err)
		}
		token = string(text)
	}
	config := agent.Defaults()
	if err := conf.Load(path, &config); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	node, err := agent.Join(ctx, config, token, address, stderr)
	if err == nil {
		_, _ = fmt.Fprintf(stdout, "node %s has joined the control plane at %s\n", node, address)
	}
	return err
}
