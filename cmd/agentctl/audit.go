package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func auditCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "See who did what, and prove that nobody changed it",
		Example: `  agentctl audit search --actor token/ci --since 24h
  agentctl audit activity user/u-7f3a
  agentctl audit export -o audit.jsonl
  agentctl audit verify audit.jsonl --checkpoint kept.txt`,
		Args: cobra.ArbitraryArgs,
		RunE: needsSubcommand,
	}
	cmd.AddCommand(auditSearch(a), auditActivity(a), auditCheckpoint(a), auditProve(a), auditExport(a), auditVerify(a))
	return cmd
}

func auditSearch(a *app) *cobra.Command {
	in := &controlv1.SearchRecordsRequest{}
	var since, until time.Duration
	cmd := &cobra.Command{
		Use:   "search",
		Short: "Find records, the newest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in.Since, in.Until = ago(since), ago(until)
			return a.call(cmd.Context(), "audit search", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewAuditServiceClient(c).SearchRecords(ctx, in)
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) { a.recordTable(p, out.Records, in.Personal) })
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&in.Actor, "actor", "", "who: `KIND/ID`, such as token/ci or local/admin")
	flags.StringVar(&in.Action, "action", "", "the end of the action's name, such as ResolveIncident")
	flags.StringVar(&in.Object, "object", "", "an `id` that was acted on: a run, incident, checkpoint, node")
	flags.StringVar(&in.Class, "class", "", "read, act, admin, sign-in, denied, key, export or log")
	flags.StringVar(&in.Outcome, "outcome", "", "ok, denied, invalid, ...")
	flags.DurationVar(&since, "since", 0, "not older than this")
	flags.DurationVar(&until, "until", 0, "older than this")
	flags.BoolVar(&in.Personal, "names", false, "also who it was and from which address; that you asked is recorded")
	flags.Int32Var(&in.Limit, "limit", 0, "at most so many (default 100, at most 1000)")
	return cmd
}

// ago is the time so long ago; nil for 0.
func ago(d time.Duration) *timestamppb.Timestamp {
	if d == 0 {
		return nil
	}
	return timestamppb.New(time.Now().Add(-d))
}

func (a *app) recordTable(p *page, records []*controlv1.AuditRecord, names bool) {
	if len(records) == 0 {
		a.note("No records.")
		return
	}
	var rows [][]cell
	for _, r := range records {
		look := good
		if r.Outcome != "ok" && r.Outcome != "begun" {
			look = bad
		}
		rows = append(rows, []cell{
			{text: fmt.Sprint(r.Seq)}, {text: r.Time.AsTime().Local().Format(time.DateTime)},
			{text: r.Actor.GetKind() + "/" + r.Actor.GetId()}, {text: shortAction(r.Action)}, {text: r.Outcome, style: look},
			{text: orNone(strings.Join(slices.Sorted(maps.Values(r.Object)), " "))},
			{text: r.Class}, {text: orNone(strings.Join(r.Flags, " "))}, {text: orNone(r.Request)},
		})
		if names {
			rows[len(rows)-1] = append(rows[len(rows)-1], personalCells(r)...)
		}
	}
	columns := []column{
		{head: "SEQ", right: true}, {head: "TIME"}, {head: "WHO"}, {head: "DID"}, {head: "OUTCOME"}, {head: "TO"},
		{head: "CLASS", wide: true}, {head: "FLAGS", wide: true}, {head: "CALL", wide: true},
	}
	if names {
		columns = append(columns, column{head: "NAME"}, column{head: "FROM"}, column{head: "E-MAIL", wide: true})
	}
	p.table(0, columns, rows)
}

// personalCells is what a record says of a person: name, address, e-mail.
func personalCells(r *controlv1.AuditRecord) []cell {
	if r.Erased {
		return []cell{{text: "erased"}, {text: "erased"}, {text: "erased"}}
	}
	cells := make([]cell, 3)
	for i, key := range []string{"name", "address", "email"} {
		cells[i].text = orNone(r.Personal[key])
	}
	return cells
}

// shortAction leaves out the package of a method's name.
func shortAction(action string) string { return strings.TrimPrefix(action, "vigil.control.v1.") }

func auditActivity(a *app) *cobra.Command {
	var since time.Duration
	cmd := &cobra.Command{
		Use:   "activity [KIND/ID]",
		Short: "Count what somebody did, or everyone",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := &controlv1.GetActivityRequest{Actor: strings.Join(args, ""), Since: ago(since)}
			return a.call(cmd.Context(), "audit activity", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewAuditServiceClient(c).GetActivity(ctx, in)
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) { a.activityTable(p, out.Activities) })
			})
		},
	}
	cmd.Flags().DurationVar(&since, "since", 7*24*time.Hour, "how far back")
	return cmd
}

func (a *app) activityTable(p *page, activities []*controlv1.Activity) {
	if len(activities) == 0 {
		a.note("Nobody did anything.")
		return
	}
	var rows [][]cell
	for _, c := range activities {
		rows = append(rows, []cell{
			{text: c.Actor}, {text: shortAction(c.Action)}, {text: c.Outcome}, {text: fmt.Sprint(c.Count)},
			{text: age(time.Now(), c.First)}, {text: age(time.Now(), c.Last)},
		})
	}
	p.table(0, []column{
		{head: "WHO"}, {head: "DID"}, {head: "OUTCOME"}, {head: "TIMES", right: true}, {head: "FIRST", right: true}, {head: "LAST", right: true},
	}, rows)
}

func auditCheckpoint(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "checkpoint",
		Short: "Show the signed head of the log, to be kept elsewhere",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd.Context(), "audit checkpoint", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewAuditServiceClient(c).GetAuditCheckpoint(ctx, &controlv1.GetAuditCheckpointRequest{})
				if err != nil {
					return err
				}
				if !a.output.forPeople() {
					return a.show(out, nil)
				}
				a.note("Key of the log: %s", out.Key)
				_, err = io.WriteString(a.stdout, out.Checkpoint)
				return fault.Mark(fault.Unavailable, err)
			})
		},
	}
}

func auditExport(a *app) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "export [-o FILE]",
		Short: "Write a copy of the whole log, for agentctl audit verify",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.stream(cmd.Context(), "audit export", func(ctx context.Context, c *client) error {
				if path == "" || path == "-" {
					return exportAudit(ctx, c, a.stdout)
				}
				err := writeWhole(path, 0o644, func(w io.Writer) error { return exportAudit(ctx, c, w) })
				if err == nil {
					a.note("Wrote %s. Check it, here or anywhere: agentctl audit verify %s", path, path)
				}
				return err
			})
		},
	}
	cmd.Flags().StringVarP(&path, "output", "o", "", "the `file`; standard output when not given")
	return cmd
}

// exportAudit writes a copy of the log.
func exportAudit(ctx context.Context, c *client, w io.Writer) error {
	stream, err := controlv1.NewAuditServiceClient(c).ExportRecords(ctx, &controlv1.ExportRecordsRequest{})
	if err != nil {
		return err
	}
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := w.Write(part.Lines); err != nil {
			return fault.Mark(fault.Unavailable, err)
		}
	}
}
