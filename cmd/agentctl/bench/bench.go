// Package bench puts load on a control plane: a fleet of simulated agents that
// speak the real protocol, each on a connection of its own. It measures from
// outside, and reads what the server says of itself.
package bench

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Command is agentctl bench.
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Put load on a control plane, or on another store of metrics",
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fault.New(fault.Invalid, "bench has no %q", args[0])
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(fleetCommand(), ingestCommand())
	return cmd
}

func fleetCommand() *cobra.Command {
	o := fleetOptions{}
	cmd := &cobra.Command{
		Use:   "fleet",
		Short: "Connect simulated agents, have them report, break all connections once, and count",
		Long: `Connects simulated agents that speak the agents' protocol, each on a connection of its own.
They send heartbeats as they are told to, a report of the node as an event each ten seconds, and
samples each interval, five intervals together as agents do. Before that they join, which is timed
by itself. Half-way, with --reconnect, all connections are broken at once. In the end it waits until every event is acknowledged.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			report, err := o.run(cmd.Context(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			report.write(cmd.OutOrStdout())
			return report.verdict()
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.address, "agents-address", "127.0.0.1:7443", "the control plane's listener for `agents`")
	f.StringVar(&o.metrics, "metrics-url", "http://127.0.0.1:8080/metrics", "where the control plane's own metrics are; empty reads none")
	f.IntVar(&o.agents, "agents", 100, "simulated agents")
	f.IntVar(&o.gpus, "gpus", 8, "GPUs of each; 0 sends no samples")
	f.IntVar(&o.perGPU, "metrics", 10, "metrics of each GPU, at most 20")
	f.DurationVar(&o.interval, "interval", time.Second, "time between two samples of a series")
	f.DurationVar(&o.reports, "reports", 10*time.Second, "time between two events of an agent; 0 sends none")
	f.DurationVar(&o.duration, "duration", time.Minute, "how long, once all are connected")
	f.BoolVar(&o.reconnect, "reconnect", false, "break all connections half-way")
	f.StringVar(&o.restart, "restart", "", "a `command` that restarts the control plane, instead of breaking the connections")
	f.DurationVar(&o.patience, "patience", 2*time.Minute, "how long connecting, and the last acknowledgements, may take")
	return cmd
}

func ingestCommand() *cobra.Command {
	o := ingestOptions{}
	cmd := &cobra.Command{
		Use:   "ingest",
		Short: "Send samples as fast as they are taken, by the agents' protocol or by remote write",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			report, err := o.run(cmd.Context())
			if err != nil {
				return err
			}
			report.write(cmd.OutOrStdout())
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.name, "name", "vigil", "what the result's line is called")
	f.StringVar(&o.address, "agents-address", "127.0.0.1:7443", "the control plane's listener for `agents`")
	f.StringVar(&o.remoteWrite, "remote-write", "", "send by Prometheus' remote write 1.0 to this `URL` instead")
	f.IntVar(&o.pid, "pid", 0, "process id of the server: its CPU time and memory are read from /proc")
	f.IntVar(&o.hosts, "hosts", 1000, "hosts")
	f.IntVar(&o.gpus, "gpus", 8, "GPUs of each host")
	f.IntVar(&o.perGPU, "metrics", 10, "metrics of each GPU, at most 20")
	f.IntVar(&o.steps, "steps", 300, "samples of each series, one second apart")
	f.IntVar(&o.together, "together", 5, "steps that a host sends together")
	f.IntVar(&o.batch, "batch", 2000, "samples of a remote-write request; Prometheus' own default is 2000")
	f.IntVar(&o.streams, "concurrency", 4, "requests in flight; with the agents' protocol, unacknowledged frames of each agent")
	return cmd
}

// percentile gives the value below which a share of sorted durations lies.
func percentile(sorted []time.Duration, share float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(share*float64(len(sorted))), len(sorted)-1)]
}

func row(w io.Writer, name, format string, args ...any) {
	_, _ = fmt.Fprintf(w, "%-28s %s\n", name, fmt.Sprintf(format, args...))
}
