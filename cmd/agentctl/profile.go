package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// profileFlags are what a person says about a profile.
type profileFlags struct {
	run     string
	steps   uint32
	ranks   []string
	wait    bool
	timeout time.Duration
}

func profileCommand(a *app) *cobra.Command {
	var flags profileFlags
	cmd := &cobra.Command{
		Use:   "profile [--run RUN] [--steps N] [--ranks 0,1|all] [--wait]",
		Short: "Have a run record where its next steps spend their time",
		Long: `Profile has training processes of a run record their next steps: PyTorch with
torch.profiler, as a trace for Perfetto or chrome://tracing, Go as a CPU profile
for go tool pprof. The trace is a file on the process' node, kept with the run;
the run's events say where. Recording slows those steps down.`,
		Example: `  agentctl profile --wait
  agentctl profile --run bert-7f3a --steps 10 --ranks all --wait`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.profile(cmd.Context(), flags) },
	}
	f := cmd.Flags()
	f.StringVar(&flags.run, "run", "", "the `run`; may be left out while only one trains")
	f.Uint32Var(&flags.steps, "steps", 5, "how many steps, 1 to 100")
	f.StringSliceVar(&flags.ranks, "ranks", []string{"0"}, "the `ranks` that record, or all")
	f.BoolVar(&flags.wait, "wait", false, "wait for the traces and show where they are")
	f.DurationVar(&flags.timeout, "timeout", 2*time.Minute, "how long it may take, at most 1h")
	complete(cmd, "run", a.completeRuns)
	return cmd
}

func (a *app) profile(ctx context.Context, flags profileFlags) error {
	request := &controlv1.ProfileRunRequest{RunId: flags.run, Steps: flags.steps, Timeout: durationpb.New(flags.timeout)}
	if slices.Equal(flags.ranks, []string{"all"}) {
		request.AllRanks = true
	} else {
		for _, text := range flags.ranks {
			rank, err := strconv.ParseUint(text, 10, 32)
			if err != nil {
				return fault.New(fault.Invalid, "profile: rank %q is no number; want for instance --ranks 0,1 or --ranks all", text)
			}
			request.Ranks = append(request.Ranks, uint32(rank))
		}
	}
	var asked *controlv1.ProfileRunResponse
	err := a.call(ctx, "profile run", func(ctx context.Context, c *client) (err error) {
		asked, err = controlv1.NewRunServiceClient(c).ProfileRun(ctx, request)
		return err
	})
	if err != nil {
		return err
	}
	if !flags.wait {
		if !a.output.forPeople() {
			return a.document(asked, false)
		}
		a.note("Asked for profile %s of run %s. See how it goes: agentctl get events %s --no-steps", asked.ProfileId, asked.RunId, asked.RunId)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, flags.timeout+graceTime)
	defer cancel()
	return a.stream(ctx, "wait for profile", func(ctx context.Context, c *client) error { return a.awaitProfile(ctx, c, asked) })
}

// awaitProfile shows what a profile's events say until each rank has its trace
// or says why there is none.
func (a *app) awaitProfile(ctx context.Context, c *client, asked *controlv1.ProfileRunResponse) error {
	stream, err := controlv1.NewRunServiceClient(c).WatchEvents(ctx, &controlv1.WatchEventsRequest{
		RunId: asked.RunId, Follow: true, AfterSequence: asked.AfterSequence,
	})
	if err != nil {
		return err
	}
	open, failed := slices.Clone(asked.Ranks), ""
	for len(open) > 0 {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return fault.New(fault.Unavailable, "the control plane ended the watch")
		}
		if err != nil {
			return err
		}
		event := response.GetEvent().GetEvent()
		progress := event.GetProfile()
		if progress.GetProfileId() != asked.ProfileId {
			continue
		}
		if err := a.showNext(response.Event, func(p *page) { eventLine(p, event) }); err != nil {
			return err
		}
		switch progress.GetState() {
		case commonv1.ProfileState_PROFILE_STATE_FAILED:
			failed = progress.GetError()
			fallthrough
		case commonv1.ProfileState_PROFILE_STATE_RECORDED:
			open = slices.DeleteFunc(open, func(rank uint32) bool { return rank == event.GetRank() })
		}
	}
	if failed != "" {
		return fault.New(fault.Precondition, "no profile of run %s: %s", asked.RunId, failed)
	}
	return nil
}
