package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func peopleCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "people",
		Short: "See who a pseudonym is, what is kept of somebody, and erase them",
		Long: `A PERSON is an e-mail address, or KIND/ID as agentctl audit search shows it. Each of these is itself recorded in
the audit log. Lookup and export take the role auditor, erase takes admin.`,
		Example: `  agentctl people lookup ada@example.org
  agentctl people export user/u-7f3a -o ada.jsonl
  agentctl people erase ada@example.org --dry-run`,
		Args: cobra.ArbitraryArgs,
		RunE: needsSubcommand,
	}
	cmd.AddCommand(peopleLookup(a), peopleExport(a), peopleErase(a))
	return cmd
}

func peopleLookup(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "lookup PERSON",
		Short: "Show who somebody is",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), "people lookup", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewPeopleServiceClient(c).LookupPerson(ctx, &controlv1.LookupPersonRequest{Person: args[0]})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) { personTable(p, out.People) })
			})
		},
	}
}

func personTable(p *page, people []*controlv1.Person) {
	var rows [][]cell
	for _, who := range people {
		state := cell{text: "known since " + who.Created.AsTime().Local().Format("2006-01-02")}
		switch {
		case who.Erased != nil:
			state = cell{"erased " + who.Erased.AsTime().Local().Format("2006-01-02 15:04"), bad}
		case who.Name == "" && who.Email == "":
			state = cell{text: "no name is known"}
		}
		rows = append(rows, []cell{{text: who.Subject}, {text: orNone(who.Name)}, {text: orNone(who.Email)}, {text: orNone(who.Login)}, state})
	}
	p.table(0, []column{{head: "WHO"}, {head: "NAME"}, {head: "E-MAIL"}, {head: "LOGIN"}, {head: "STATE"}}, rows)
}

func peopleExport(a *app) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "export PERSON [-o FILE]",
		Short: "Write all that is kept of somebody: who they are, and every audit record of theirs",
		Long:  `Writes lines of JSON: a person, and then each audit record of theirs with what it says of them in the clear.`,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.stream(cmd.Context(), "people export", func(ctx context.Context, c *client) error {
				if path == "" || path == "-" {
					_, err := exportPerson(ctx, c, args[0], a.stdout)
					return err
				}
				records := 0
				err := writeWhole(path, 0o600, func(w io.Writer) (err error) {
					records, err = exportPerson(ctx, c, args[0], w)
					return err
				})
				if err == nil {
					a.note("Wrote %s: %s.", path, count(records, "audit record"))
				}
				return err
			})
		},
	}
	cmd.Flags().StringVarP(&path, "output", "o", "", "the `file`; standard output when not given")
	return cmd
}

// exportPerson writes what is kept of somebody and gives how many audit records.
func exportPerson(ctx context.Context, c *client, person string, w io.Writer) (records int, err error) {
	stream, err := controlv1.NewPeopleServiceClient(c).ExportPerson(ctx, &controlv1.ExportPersonRequest{Person: person})
	if err != nil {
		return 0, err
	}
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return records, nil
		}
		if err != nil {
			return records, err
		}
		if part.Person != nil {
			if err := writeDocument(w, part.Person); err != nil {
				return records, err
			}
		}
		for _, r := range part.Records {
			records++
			if err := writeDocument(w, r); err != nil {
				return records, err
			}
		}
	}
}

// writeDocument writes one answer of many as a line of JSON.
func writeDocument(w io.Writer, m proto.Message) error {
	text, err := marshal(m, formatJSON, true)
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return fault.Mark(fault.Unavailable, err)
}

func peopleErase(a *app) *cobra.Command {
	in := &controlv1.ErasePersonRequest{}
	cmd := &cobra.Command{
		Use:   "erase PERSON",
		Short: "Destroy somebody's key, so that nobody can read any more what records say of them",
		Long: `Destroys the key that what is kept of somebody is encrypted with. Audit records stay, and still verify; they name the
pseudonym, and say "erased" in the place of name, address and login. It cannot be undone. Backups that were made before still have
the key: see docs/personal-data.md.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in.Person = args[0]
			return a.call(cmd.Context(), "people erase", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewPeopleServiceClient(c).ErasePerson(ctx, in)
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) {
					did := "Erased"
					if in.DryRun {
						did = "Would erase"
					}
					p.line(cell{text: fmt.Sprintf("%s %s: what %s of theirs say of a person cannot be read then.", did,
						strings.Join(out.Subjects, ", "), count(int(out.Records), "audit record"))})
				})
			})
		},
	}
	cmd.Flags().BoolVar(&in.DryRun, "dry-run", false, "only say what would be erased")
	return cmd
}
