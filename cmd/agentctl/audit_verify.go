package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/vigil-ml/vigil/controlplane/audit/trail"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/statedir"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// verifyFlags is what a copy is checked against.
type verifyFlags struct {
	key         string
	checkpoints []string
	other       string
}

func auditVerify(a *app) *cobra.Command {
	var flags verifyFlags
	cmd := &cobra.Command{
		Use:   "verify [COPY]",
		Short: "Check a copy of the log, record by record, without any control plane",
		Long: `Check that every record of a copy is as it was written, and that none is missing, put
in, or moved; the first that is not is named. COPY is a file that agentctl audit export
wrote, a directory of audit.copies, s3://BUCKET/PREFIX of audit.buckets (the AWS_
variables have keys and endpoint), or elastic:https://HOST:9200/NAMESPACE of an exporter
(ELASTIC_API_KEY, or ELASTIC_USERNAME and ELASTIC_PASSWORD). Without COPY the log of the
control plane is checked, also against its head as it was when it was checked last from
here; with --copy it shows what was cut off or changed since that copy was made.

A copy alone cannot show that its end was cut off: give a checkpoint that was kept
elsewhere (--checkpoint), or a second copy (--copy). Give the log's key (--key) if you
have it from elsewhere; else the copy's own word is taken for it.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return a.verifyCopy(cmd.Context(), args[0], flags)
			}
			return a.stream(cmd.Context(), "audit verify", func(ctx context.Context, c *client) error {
				return a.verifyLog(ctx, c, flags)
			})
		},
	}
	cmd.Flags().StringVar(&flags.key, "key", "", "the log's public `key`")
	cmd.Flags().StringArrayVar(&flags.checkpoints, "checkpoint", nil, "`file` with a signed head that was kept elsewhere")
	cmd.Flags().StringVar(&flags.other, "copy", "", "a second `copy`, kept elsewhere")
	return cmd
}

// options reads what a copy is checked against. Close closes what it opened.
func (f verifyFlags) options(ctx context.Context) (options trail.Options, closeAll func(), err error) {
	closeAll = func() {}
	options.Key = f.key
	for _, path := range f.checkpoints {
		text, err := os.ReadFile(path)
		if err != nil {
			return options, closeAll, fmt.Errorf("read checkpoint: %w", err)
		}
		options.Checkpoints = append(options.Checkpoints, string(text))
	}
	if f.other == "" {
		return options, closeAll, nil
	}
	file, note, err := openCopy(ctx, f.other, f.key)
	if err != nil {
		return options, closeAll, fmt.Errorf("open second copy: %w", err)
	}
	if note != "" {
		options.Checkpoints = append(options.Checkpoints, note)
	}
	options.Copy = file
	return options, func() { _ = file.Close() }, nil
}

func (a *app) verifyCopy(ctx context.Context, path string, flags verifyFlags) error {
	options, closeAll, err := flags.options(ctx)
	if err != nil {
		return err
	}
	defer closeAll()
	file, note, err := openCopy(ctx, path, flags.key)
	if err != nil {
		return err
	}
	if note != "" {
		options.Checkpoints = append(options.Checkpoints, note)
	}
	defer func() { _ = file.Close() }()
	report, err := trail.Verify(file, options)
	if err != nil {
		return fmt.Errorf("verify %s: %w", path, err)
	}
	return a.tellReport(path, report)
}

// tellReport says what a copy was found to be.
func (a *app) tellReport(what string, r trail.Report) error {
	if r.Bad != nil {
		where := ""
		if r.Bad.Line > 0 {
			where = fmt.Sprintf(", line %d", r.Bad.Line)
		}
		return fault.WithHint(fault.New(fault.Corrupt, "%s is not as it was written: the first bad record is %d%s: %s", what, r.Bad.Index, where, r.Bad.Why),
			fmt.Sprintf("the %s before it are good; compare with another copy (--copy)", count(int(r.Records), "record")))
	}
	p := newPage(a.width, a.color(), a.output == formatWide)
	p.line(cell{"good", good}, cell{text: count(int(r.Records), "record") + " of " + r.Origin})
	if r.LetGo > 0 {
		p.line(cell{text: fmt.Sprintf("      %s let go of when their time had come, as the log says", count(int(r.LetGo), "record"))})
	}
	if r.Records > 0 {
		p.line(cell{text: fmt.Sprintf("      from %s to %s", r.First, r.Last)})
		p.line(cell{text: "      head, to be kept elsewhere:"})
		for line := range strings.Lines(r.Checkpoint) {
			p.line(cell{text: "        " + strings.TrimSuffix(line, "\n")})
		}
	}
	_, err := a.stdout.Write(p.bytes())
	return fault.Mark(fault.Unavailable, err)
}

// verifyLog checks the log of the control plane while it is handed out, and
// remembers its head for the next time.
func (a *app) verifyLog(ctx context.Context, c *client, flags verifyFlags) error {
	options, closeAll, err := flags.options(ctx)
	if err != nil {
		return err
	}
	defer closeAll()
	head, err := controlv1.NewAuditServiceClient(c).GetAuditCheckpoint(ctx, &controlv1.GetAuditCheckpointRequest{})
	if err != nil {
		return err
	}
	key, err := trail.OpenKey(cmp.Or(options.Key, head.Key))
	if err != nil {
		return err
	}
	memory := filepath.Join(statedir.Default("agentctl"), "audit", strings.ReplaceAll(key.Name(), "/", "-")+".checkpoint")
	kept, err := os.ReadFile(memory)
	switch {
	case err == nil:
		options.Checkpoints = append(options.Checkpoints, string(kept))
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("read the head that was kept: %w", err)
	}
	var report trail.Report
	read, write := io.Pipe()
	err = life.All(ctx,
		life.Task{Name: "export", Run: func(ctx context.Context) error {
			err := exportAudit(ctx, c, write)
			_ = write.CloseWithError(err)
			<-ctx.Done() // verify ends last
			return err
		}},
		life.Task{Name: "verify", Run: func(context.Context) (err error) {
			report, err = trail.Verify(read, options)
			_ = read.CloseWithError(io.ErrClosedPipe)
			return err
		}})
	if err != nil {
		return err
	}
	if err := a.tellReport("the log", report); err != nil || report.Records == 0 {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(memory), 0o700); err != nil {
		return fmt.Errorf("keep the head: %w", err)
	}
	return durable.WriteFile(durable.OS{}, memory, []byte(report.Checkpoint), 0o600)
}

func auditProve(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "prove SEQ",
		Short: "Prove that a record is in the log, and check the proof here",
		Args:  oneArg("record", "agentctl audit search lists records"),
		RunE: func(cmd *cobra.Command, args []string) error {
			seq, err := strconv.ParseUint(args[0], 10, 63)
			if err != nil {
				return fault.New(fault.Invalid, "%q is no record's number", args[0])
			}
			return a.call(cmd.Context(), "audit prove", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewAuditServiceClient(c).ProveRecord(ctx, &controlv1.ProveRecordRequest{Seq: seq})
				if err != nil {
					return err
				}
				if err := checkProof(seq, out); err != nil {
					return err
				}
				return a.show(out, func(p *page) {
					p.line(cell{"proved", good}, cell{text: fmt.Sprintf("record %d is in the log of the head below, by %s", seq, count(len(out.Proof), "hash"))})
					p.line(cell{text: orNone(out.Record)})
					p.line(cell{text: strings.TrimSuffix(out.Checkpoint, "\n")})
				})
			})
		},
	}
}

// checkProof checks an answer without trusting whoever gave it.
func checkProof(seq uint64, out *controlv1.ProveRecordResponse) error {
	key, err := trail.OpenKey(out.Key)
	if err != nil {
		return err
	}
	head, err := trail.OpenCheckpoint(key, out.Checkpoint)
	if err != nil {
		return err
	}
	var leaf tlog.Hash
	copy(leaf[:], out.Leaf)
	if out.Record != "" {
		if leaf != tlog.RecordHash([]byte(out.Record)) {
			return fault.New(fault.Corrupt, "the record that was shown is not the one that was proved")
		}
		if r, err := trail.Parse([]byte(out.Record)); err != nil || r.Seq != seq {
			return fault.New(fault.Corrupt, "the record that was shown is not record %d (%v)", seq, err)
		}
	}
	proof := make([]tlog.Hash, len(out.Proof))
	for i := range out.Proof {
		copy(proof[i][:], out.Proof[i])
	}
	return trail.CheckInclusion(head, seq, leaf, proof)
}
