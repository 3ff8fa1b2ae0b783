package main

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/vigil-ml/vigil/agent"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/testkit"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	trainerv1 "github.com/vigil-ml/vigil/proto/vigil/trainer/v1"
	"github.com/vigil-ml/vigil/trainer/balance/weigh"
)

// started is the agent as this program runs it, with the weights' methods.
func started(t testing.TB, dir string) (trainerv1.TrainerServiceClient, string, func()) {
	t.Helper()
	path, socket := filepath.Join(dir, "agent.yaml"), filepath.Join(dir, "run", "s")
	text := "node: n7\nstate_dir: " + filepath.Join(dir, "state") + "\nlisten: 127.0.0.1:0\ntrainers: {socket: " + socket +
		"}\ncollectors: {nvml: {off: true}}\nuplink: {address: 127.0.0.1:1}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	config := agent.Defaults()
	if err := conf.Load(path, &config); err != nil {
		t.Fatal(err)
	}
	group := life.NewGroup(context.Background())
	group.Go("agent", func(ctx context.Context) error {
		return agent.Deps{Weights: weigh.New()}.Run(ctx, config, nil, t.Output())
	})
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	client := trainerv1.NewTrainerServiceClient(conn)
	testkit.Eventually(t, "the socket", func() bool {
		_, err := os.Stat(socket)
		return err == nil
	})
	registered, err := client.Register(t.Context(), &trainerv1.RegisterRequest{RunId: "run",
		Trainer: &commonv1.TrainerRegistered{WorldSize: 1, Pid: int64(os.Getpid())}})
	if err != nil {
		t.Fatal(err)
	}
	return client, registered.SessionId, func() {
		_ = conn.Close()
		group.Stop()
		if err := group.Wait(); err != nil {
			t.Errorf("agent: %v", err)
		}
	}
}

func weightsOf(t testing.TB, client trainerv1.TrainerServiceClient, session string, step int64, state []byte) *trainerv1.WeightsResponse {
	t.Helper()
	in := &trainerv1.WeightsRequest{SessionId: session, Method: "gradnorm", Settings: `{"alpha": 0.12}`, Step: step, State: state}
	for i := range int64(3) {
		in.Tasks = append(in.Tasks, &trainerv1.WeighedTask{Name: strconv.FormatInt(i, 10), Kind: trainerv1.TaskKind_TASK_KIND_REGRESSION,
			Loss: float64(i+1) / float64(step), GradientNorm: float64((i + step) % 4)})
	}
	out, err := client.Weights(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestWeightsSurviveTheAgent: the weights of a trainer whose agent is restarted
// in the middle are those of one whose agent was always there.
func TestWeightsSurviveTheAgent(t *testing.T) {
	run := func(restartAt int64) (all [][]float64) {
		dir := t.TempDir()
		client, session, stop := started(t, dir)
		var state []byte
		for step := range int64(12) {
			if step == restartAt {
				stop()
				client, session, stop = started(t, dir)
			}
			out := weightsOf(t, client, session, step+1, state)
			state, all = out.State, append(all, out.Weights)
		}
		stop()
		return all
	}
	calm := run(-1)
	if diff := cmp.Diff(calm, run(6)); diff != "" {
		t.Error(diff)
	}
	if cmp.Equal(calm[0], calm[11]) {
		t.Errorf("the weights never moved: %v", calm)
	}
}

// BenchmarkWeightsCall is a whole call over the trainers' socket.
func BenchmarkWeightsCall(b *testing.B) {
	client, session, stop := started(b, b.TempDir())
	defer stop()
	var state []byte
	for step := int64(1); b.Loop(); step++ {
		state = weightsOf(b, client, session, step, state).State
	}
}
