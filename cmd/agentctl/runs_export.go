package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/detect/replay"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// mostFindings is how many findings of a run are exported, the newest.
const mostFindings = 1000

func runsCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "runs",
		Short: "Keep runs as files",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsSubcommand,
	}
	cmd.AddCommand(runsExport(a))
	return cmd
}

func runsExport(a *app) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "export RUN [-o FILE]",
		Short: "Write all that is known of a run's events, for agentctl detect replay",
		Long: `Write a run as JSON lines: a header, the findings that were made of it with what
people said of them, and every event of the run and of its nodes that the control
plane still has, in their order. How long it has them is bus.max_age and
bus.max_bytes of its configuration: export what you want to keep longer.`,
		Example:           `  agentctl runs export digits-7f3a -o digits.jsonl`,
		Args:              oneArg("run", "agentctl get runs lists the runs"),
		ValidArgsFunction: firstArg(a.completeRuns),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.stream(cmd.Context(), "export run", func(ctx context.Context, c *client) error {
				if path == "" || path == "-" {
					_, err := a.export(ctx, c, args[0], a.stdout)
					return err
				}
				return a.exportFile(ctx, c, args[0], path)
			})
		},
	}
	// -o is the output's format elsewhere; here it is where a person looks for
	// the file's name.
	cmd.Flags().StringVarP(&path, "output", "o", "", "the `file`; standard output when not given")
	return cmd
}

// exportFile writes a run into a file.
func (a *app) exportFile(ctx context.Context, c *client, run, path string) error {
	var events int
	err := writeWhole(path, 0o644, func(w io.Writer) (err error) {
		events, err = a.export(ctx, c, run, w)
		return err
	})
	if err == nil {
		a.note("Wrote %s of run %s to %s. Try it: agentctl detect replay %s", count(events, "event"), run, path, path)
	}
	return err
}

// writeWhole writes a file whole or not at all.
func writeWhole(path string, mode os.FileMode, write func(io.Writer) error) error {
	partial := path + ".partial"
	file, err := os.OpenFile(partial, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return fmt.Errorf("make file: %w", err)
	}
	err = write(file)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return errors.Join(err, os.Remove(partial))
	}
	if err := (durable.OS{}).Rename(partial, path); err != nil {
		return fmt.Errorf("name file: %w", err)
	}
	return nil
}

// export writes a run and gives the number of its events.
func (a *app) export(ctx context.Context, c *client, run string, to io.Writer) (events int, err error) {
	out := bufio.NewWriter(to)
	if err := exportHead(ctx, c, run, out); err != nil {
		return 0, err
	}
	stream, err := controlv1.NewRunServiceClient(c).WatchEvents(ctx, &controlv1.WatchEventsRequest{RunId: run, WithNodes: true})
	if err != nil {
		return 0, err
	}
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return events, fault.Mark(fault.Unavailable, out.Flush())
		}
		if err != nil {
			return events, err
		}
		if response.GetEvent() == nil {
			continue
		}
		events++
		record := &controlv1.ExportRecord{Record: &controlv1.ExportRecord_Event{Event: response.GetEvent()}}
		if err := replay.WriteRecord(out, record); err != nil {
			return events, err
		}
	}
}

// exportHead writes the header and the findings, the oldest first.
func exportHead(ctx context.Context, c *client, run string, out io.Writer) error {
	known, err := controlv1.NewRunServiceClient(c).GetRun(ctx, &controlv1.GetRunRequest{RunId: run})
	if err != nil {
		return err
	}
	client := controlv1.NewFindingServiceClient(c)
	settings, err := client.GetDetectionSettings(ctx, &controlv1.GetDetectionSettingsRequest{RunId: run})
	if err != nil {
		return err
	}
	found, err := client.ListFindings(ctx, &controlv1.ListFindingsRequest{RunId: run, Limit: mostFindings})
	if err != nil {
		return err
	}
	header := replay.Header(known.Run, settings.Yaml)
	header.Exported = timestamppb.Now()
	if err := replay.WriteRecord(out, &controlv1.ExportRecord{Record: &controlv1.ExportRecord_Header{Header: header}}); err != nil {
		return err
	}
	for i := range found.Findings {
		finding := found.Findings[len(found.Findings)-1-i]
		if err := replay.WriteRecord(out, &controlv1.ExportRecord{Record: &controlv1.ExportRecord_Finding{Finding: finding}}); err != nil {
			return err
		}
	}
	return nil
}
