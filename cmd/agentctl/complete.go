package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vigil-ml/vigil/alerting/alert"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// completeTime is how long a person who pressed Tab waits at most.
const completeTime = time.Second

// completion is cobra's shape of a completion.
type completion = func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective)

// complete gives a flag its completion. That fails only when there is no such
// flag, which a test finds.
func complete(cmd *cobra.Command, flag string, with completion) {
	if err := cmd.RegisterFlagCompletionFunc(flag, with); err != nil {
		panic(err)
	}
}

// firstArg completes only the first argument.
func firstArg(with completion) completion {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return with(cmd, args, toComplete)
	}
}

// completeRuns asks the server for run ids; without an answer there are none.
func (a *app) completeRuns(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeFrom(cmd, func(ctx context.Context, c *client) (ids []string, err error) {
		out, err := controlv1.NewRunServiceClient(c).ListRuns(ctx, &controlv1.ListRunsRequest{})
		for _, r := range out.GetRuns() {
			ids = append(ids, cobra.CompletionWithDesc(r.RunId, word(r.State)))
		}
		return ids, err
	})
}

// completeNodes asks the server for the nodes' names.
func (a *app) completeNodes(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeFrom(cmd, func(ctx context.Context, c *client) (names []string, err error) {
		out, err := controlv1.NewNodeServiceClient(c).ListNodes(ctx, &controlv1.ListNodesRequest{})
		for _, n := range out.GetNodes() {
			names = append(names, cobra.CompletionWithDesc(n.Name, word(n.State)))
		}
		return names, err
	})
}

// completeIncidents asks the server for incident ids.
func (a *app) completeIncidents(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeFrom(cmd, func(ctx context.Context, c *client) (ids []string, err error) {
		out, err := controlv1.NewIncidentServiceClient(c).ListIncidents(ctx, &controlv1.ListIncidentsRequest{})
		for _, i := range out.GetIncidents() {
			ids = append(ids, cobra.CompletionWithDesc(i.IncidentId, i.Summary))
		}
		return ids, err
	})
}

// completeSilences asks the server for the ids of the silences that hold or will.
func (a *app) completeSilences(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeFrom(cmd, func(ctx context.Context, c *client) (ids []string, err error) {
		out, err := controlv1.NewSilenceServiceClient(c).ListSilences(ctx, &controlv1.ListSilencesRequest{})
		for _, s := range out.GetSilences() {
			ids = append(ids, cobra.CompletionWithDesc(s.SilenceId, strings.Join(matcherTexts(s), " ")))
		}
		return ids, err
	})
}

// completeReceivers asks the server for the receivers' names.
func (a *app) completeReceivers(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeFrom(cmd, func(ctx context.Context, c *client) (names []string, err error) {
		out, err := controlv1.NewReceiverServiceClient(c).ListReceivers(ctx, &controlv1.ListReceiversRequest{})
		for _, r := range out.GetReceivers() {
			names = append(names, cobra.CompletionWithDesc(r.Name, r.Kind))
		}
		return names, err
	})
}

// completeLabels gives the names of the labels that incidents have.
func completeLabels(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var names []string
	for _, name := range []string{
		alert.LabelName, alert.LabelSeverity, alert.LabelRun, alert.LabelNode, alert.LabelRank, "gpu", "project", "job", "team", "cluster",
	} {
		names = append(names, name+"=")
	}
	return names, cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
}

func (a *app) completeFrom(cmd *cobra.Command, list func(context.Context, *client) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTime)
	defer cancel()
	var ids []string
	err := a.call(ctx, "complete", func(ctx context.Context, c *client) (err error) {
		ids, err = list(ctx, c)
		return err
	})
	if err != nil {
		cobra.CompDebugln(err.Error(), true)
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
