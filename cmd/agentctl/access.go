package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/pki"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func accessCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "access",
		Short: "See as whom you come in, and give programs tokens",
		Example: `  agentctl access whoami
  agentctl access create-token ci --role operator --project llm --for 720h
  curl -H "Authorization: Bearer $(agentctl access token)" ...`,
		Args: cobra.ArbitraryArgs,
		RunE: needsSubcommand,
	}
	cmd.AddCommand(accessWhoAmI(a), accessToken(a), accessPin(a), accessTokens(a), accessCreate(a), accessRevoke(a), accessResetAdmin(a))
	return cmd
}

func accessWhoAmI(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "whoami",
		Short: "Show as whom you come in",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd.Context(), "access whoami", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewAccessServiceClient(c).WhoAmI(ctx, &controlv1.WhoAmIRequest{})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) {
					who := out.GetCaller()
					p.line(cell{who.Kind + "/" + who.Id, strong}, cell{text: who.Name}, cell{text: roleNames(who.Roles)}, cell{text: projectNames(who.Projects)})
				})
			})
		},
	}
}

func roleNames(roles []commonv1.Role) string {
	names := make([]string, len(roles))
	for i, role := range roles {
		names[i] = strings.ToLower(strings.TrimPrefix(role.String(), "ROLE_"))
	}
	return strings.Join(names, " ")
}

func projectNames(projects []string) string {
	if len(projects) == 0 {
		return "every project"
	}
	return "projects " + strings.Join(projects, " ")
}

func accessToken(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "token",
		Short: "Show the token that agentctl comes in with, for other programs of yours",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			to, err := a.destination()
			if err != nil {
				return err
			}
			token, err := a.token(cmd.Context(), to)
			if err != nil {
				return err
			}
			if token == "" {
				return fault.WithHint(fault.New(fault.NotFound, "there is no token for %s", a.server),
					"a control plane that this user runs on this machine leaves one; else agentctl login, or set VIGIL_TOKEN or --token-file")
			}
			_, err = fmt.Fprintln(a.stdout, token)
			return fault.Mark(fault.Unavailable, err)
		},
	}
}

func accessPin(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "pin",
		Short: "Show the pin of the control plane's authority, for agentctl login --pin elsewhere",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			to, err := a.destination()
			if err != nil {
				return err
			}
			kept, err := a.login(to.address)
			if err != nil {
				return err
			}
			text, err := kept.authority(to.address)
			if err != nil {
				return err
			}
			block, _ := pem.Decode([]byte(text))
			if block == nil {
				return fault.WithHint(fault.New(fault.NotFound, "no authority is known for %s", a.server),
					"a control plane that this user runs on this machine leaves it where it speaks TLS (api.tls.on)")
			}
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return fault.New(fault.Corrupt, "read authority: %w", err)
			}
			_, err = fmt.Fprintln(a.stdout, pki.Pin(cert))
			return fault.Mark(fault.Unavailable, err)
		},
	}
}

func accessTokens(a *app) *cobra.Command {
	var ended bool
	cmd := &cobra.Command{
		Use:   "tokens",
		Short: "List the tokens, the newest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd.Context(), "access tokens", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewAccessServiceClient(c).ListTokens(ctx, &controlv1.ListTokensRequest{Ended: ended})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) { a.tokenTable(p, out.Tokens) })
			})
		},
	}
	cmd.Flags().BoolVar(&ended, "ended", false, "also those that have expired or were revoked")
	return cmd
}

func (a *app) tokenTable(p *page, tokens []*controlv1.Token) {
	if len(tokens) == 0 {
		a.note("No tokens. Make one: agentctl access create-token NAME --role viewer")
		return
	}
	var rows [][]cell
	for _, t := range tokens {
		standing := cell{"good", good}
		switch {
		case t.Revoked != nil:
			standing = cell{"revoked", bad}
		case t.Expires.AsTime().Before(time.Now()):
			standing = cell{"expired", warn}
		}
		rows = append(rows, []cell{
			{text: t.TokenId}, {text: t.Name}, standing, {text: roleNames(t.Roles)}, {text: projectNames(t.Projects)},
			{text: age(time.Now(), t.Created)}, {text: t.Expires.AsTime().Local().Format(time.DateTime)}, {text: t.Creator},
		})
	}
	p.table(0, []column{
		{head: "TOKEN"}, {head: "NAME"}, {head: "STATE"}, {head: "ROLES"}, {head: "SEES"}, {head: "AGE", right: true},
		{head: "EXPIRES"}, {head: "CREATOR", wide: true},
	}, rows)
}

func accessCreate(a *app) *cobra.Command {
	var roles, projects []string
	var lifetime time.Duration
	cmd := &cobra.Command{
		Use:   "create-token NAME --role ROLE",
		Short: "Make a token for a program; its secret is shown this once",
		Args:  oneArg("token", "name it after what it is for"),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := &controlv1.CreateTokenRequest{Name: args[0], Projects: projects}
			if lifetime != 0 {
				in.Lifetime = durationpb.New(lifetime)
			}
			for _, name := range roles {
				role, ok := commonv1.Role_value["ROLE_"+strings.ToUpper(name)]
				if !ok {
					return fault.New(fault.Invalid, "there is no role %q; there are viewer, operator, engineer, admin and auditor", name)
				}
				in.Roles = append(in.Roles, commonv1.Role(role))
			}
			return a.call(cmd.Context(), "access create-token", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewAccessServiceClient(c).CreateToken(ctx, in)
				if err != nil {
					return err
				}
				if !a.output.forPeople() {
					return a.show(out, nil)
				}
				a.note("Token %s is good until %s. This is its secret; it is not shown again:", out.Token.TokenId, out.Token.Expires.AsTime().Local().Format(time.DateTime))
				_, err = fmt.Fprintln(a.stdout, out.Secret)
				return fault.Mark(fault.Unavailable, err)
			})
		},
	}
	cmd.Flags().StringArrayVar(&roles, "role", nil, "viewer, operator, engineer, admin or auditor; may be given several times")
	cmd.Flags().StringArrayVar(&projects, "project", nil, "a `project` that it may see; none means all")
	cmd.Flags().DurationVar(&lifetime, "for", 0, "how long it is good (default 90 days, at most a year)")
	return cmd
}

func accessRevoke(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke-token TOKEN",
		Short: "Make a token good for nothing, from now on",
		Args:  oneArg("token", "agentctl access tokens lists the tokens"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), "access revoke-token", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewAccessServiceClient(c).RevokeToken(ctx, &controlv1.RevokeTokenRequest{TokenId: args[0]})
				if err != nil {
					return err
				}
				return a.show(out, func(p *page) {
					p.line(cell{"revoked", good}, cell{text: out.Token.TokenId}, cell{text: out.Token.Name})
				})
			})
		},
	}
}

func accessResetAdmin(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "reset-admin",
		Short: "Give the local administrator another secret, shown once",
		Long: `Shows the secret that the local administrator comes in with, on the control plane's machine: --token-file, VIGIL_TOKEN.
The one before is good for nothing from then on.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd.Context(), "access reset-admin", func(ctx context.Context, c *client) error {
				out, err := controlv1.NewAccessServiceClient(c).ResetLocalAdmin(ctx, &controlv1.ResetLocalAdminRequest{})
				if err != nil {
					return err
				}
				if !a.output.forPeople() {
					return a.show(out, nil)
				}
				_, err = fmt.Fprintln(a.stdout, out.Secret)
				return fault.Mark(fault.Unavailable, err)
			})
		},
	}
}
