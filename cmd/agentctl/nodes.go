package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func joinTokenCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "join-token",
		Short: "Let a new node's agent in",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsSubcommand,
	}
	cmd.AddCommand(joinTokenCreate(a))
	return cmd
}

func joinTokenCreate(a *app) *cobra.Command {
	in := &controlv1.CreateJoinTokenRequest{}
	var lifetime time.Duration
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a token for vigil-agent join; it is shown this once",
		Long: `Makes a token for vigil-agent join; it is shown this once. A node that has joined before,
or was revoked, comes in with a token that names it and with no other.`,
		Example: `  agentctl join-token create --node gpu-01
  agentctl join-token create --uses 8 --for 24h    # for eight new nodes`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if lifetime != 0 {
				in.Lifetime = durationpb.New(lifetime)
			}
			return a.call(cmd.Context(), "join-token create", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewIdentityServiceClient(c).CreateJoinToken(ctx, in)
				if err != nil {
					return err
				}
				if !a.output.forPeople() {
					return a.show(out, nil)
				}
				a.note("Good until %s. On the node: vigil-agent join --token TOKEN %s", out.Expires.AsTime().Local().Format(time.DateTime), out.Address)
				_, err = fmt.Fprintln(a.stdout, out.Secret)
				return fault.Mark(fault.Unavailable, err)
			})
		},
	}
	cmd.Flags().StringVar(&in.Node, "node", "", "the only `node` that may use it; without it any that has not joined before")
	cmd.Flags().DurationVar(&lifetime, "for", 0, "how long it is good (default 1h, at most 720h)")
	cmd.Flags().Int32Var(&in.Uses, "uses", 0, "how many nodes may use it (default 1)")
	return cmd
}

func identitiesCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "identities",
		Short: "See what nodes come in with, and revoke it",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsSubcommand,
	}
	cmd.AddCommand(identitiesList(a), identitiesRevoke(a))
	return cmd
}

func identitiesList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the nodes' certificates that have not expired, the newest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd.Context(), "identities list", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewIdentityServiceClient(c).ListIdentities(ctx, &controlv1.ListIdentitiesRequest{})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) { a.identityTable(p, out.Certificates) })
			})
		},
	}
}

func (a *app) identityTable(p *page, certificates []*controlv1.NodeCertificate) {
	if len(certificates) == 0 {
		a.note("No node has a certificate. Let one in: agentctl join-token create")
		return
	}
	var rows [][]cell
	for _, c := range certificates {
		standing := cell{"good", good}
		if c.Revoked != nil {
			standing = cell{"revoked", bad}
		}
		rows = append(rows, []cell{
			{text: c.Node}, standing, {text: age(time.Now(), c.Issued)}, {text: c.Expires.AsTime().Local().Format(time.DateTime)},
			{text: c.SpiffeId}, {text: c.Serial},
		})
	}
	p.table(0, []column{
		{head: "NODE"}, {head: "STATE"}, {head: "AGE", right: true}, {head: "EXPIRES"}, {head: "SPIFFE ID"}, {head: "SERIAL", wide: true},
	}, rows)
}

func identitiesRevoke(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke NODE",
		Short: "Make a node's certificates and join tokens good for nothing, and cut its stream",
		Args:  oneArg("node", "agentctl identities list lists them"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), "identities revoke", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewIdentityServiceClient(c).RevokeNode(ctx, &controlv1.RevokeNodeRequest{Node: args[0]})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) {
					p.line(cell{"revoked", good}, cell{text: count(int(out.Certificates), "certificate") + " of node " + args[0] + ", and its join tokens"})
				})
			})
		},
	}
}
