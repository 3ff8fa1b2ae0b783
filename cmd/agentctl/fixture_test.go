package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/bus"
	"github.com/vigil-ml/vigil/controlplane/store"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// putRun is `run ID STATE NODE...`: writes a run.
func putRun(in *installation, args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("usage: run ID STATE NODE...")
	}
	state, ok := controlv1.RunState_value["RUN_STATE_"+strings.ToUpper(args[1])]
	if !ok {
		return fmt.Errorf("there is no run state %q", args[1])
	}
	run := &controlv1.Run{RunId: args[0], State: controlv1.RunState(state), Nodes: args[2:], Started: timestamppb.Now()}
	if run.State > controlv1.RunState_RUN_STATE_RESTARTING {
		run.Ended = timestamppb.Now()
	}
	return in.store.Update(context.Background(), func(tx *store.Tx) error { return tx.PutRun(run, 1) })
}

// connectAgent is `agent NODE saves|fails|silent`: connects an agent whose
// trainers save what they are told to, fail to, or do nothing.
func connectAgent(in *installation, args []string) error {
	if len(args) != 2 || !slices.Contains([]string{"saves", "fails", "silent"}, args[1]) {
		return fmt.Errorf("usage: agent NODE saves|fails|silent")
	}
	hello := &agentv1.Hello{Node: args[0], Version: "v1.2", Facts: map[string]string{"os": "linux"}}
	in.fleet.Connected(context.Background(), hello, func(m *agentv1.ConnectResponse) error {
		if m.GetCommand().GetCheckpointTask() != nil {
			return in.doTask(m.GetCommand(), args[1])
		}
		order := m.GetCommand().GetCheckpoint()
		switch args[1] {
		case "saves":
			return in.progress(args[0], order, 2, 3, 4, 5)
		case "fails":
			return in.progress(args[0], order, 2, 7)
		default:
			return nil
		}
	})
	return in.fleet.Heartbeat(args[0], &agentv1.Heartbeat{Collectors: map[string]string{"host": "ok", "nvml": "unsupported"}})
}

// doTask answers a task as an agent would, each word in a transaction of its own.
func (in *installation) doTask(command *agentv1.Command, how string) error {
	words := []*commonv1.CommandResult{
		{Stage: commonv1.CommandStage_COMMAND_STAGE_ACCEPTED},
		{Stage: commonv1.CommandStage_COMMAND_STAGE_RUNNING, DoneBytes: 156200, TotalBytes: 312400},
	}
	switch how {
	case "saves":
		words = append(words, &commonv1.CommandResult{Stage: commonv1.CommandStage_COMMAND_STAGE_DONE, Detail: "every byte agrees"})
	case "fails":
		words = append(words, &commonv1.CommandResult{Stage: commonv1.CommandStage_COMMAND_STAGE_FAILED, Error: "file \"w\": its BLAKE3 is other"})
	default:
		return nil
	}
	for _, word := range words {
		word.CommandId = command.GetCommandId()
		err := in.store.Update(context.Background(), func(tx *store.Tx) error { return tx.AdvanceTask(word, time.Now()) })
		if err != nil {
			return err
		}
	}
	return nil
}

// progress has a checkpoint reach states, each in a transaction of its own.
func (in *installation) progress(node string, order *commonv1.CheckpointOrder, states ...commonv1.CheckpointState) error {
	for _, state := range states {
		p := &commonv1.CheckpointProgress{CheckpointId: order.CheckpointId, State: state}
		switch {
		case state == commonv1.CheckpointState_CHECKPOINT_STATE_FAILED:
			p.Error = "write model.bin: no space left on device"
		case state >= commonv1.CheckpointState_CHECKPOINT_STATE_STAGED:
			p.Step, p.SizeBytes = 1412, 312400
			p.Path, p.ManifestSha256 = "/var/lib/vigil/vault/"+order.RunId+"/1412", strings.Repeat("9f2c", 16)
			p.Health = commonv1.CheckpointHealth_CHECKPOINT_HEALTH_HEALTHY
		}
		err := in.store.Update(context.Background(), func(tx *store.Tx) error {
			_, err := tx.AdvanceCheckpoint(p, order.RunId, 0, 1, node, time.Now())
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// seed writes an installation in which a run had an incident and went on.
func seed(in *installation, _ []string) error {
	begin := time.Now().Add(-10 * time.Minute)
	err := in.store.Update(context.Background(), func(tx *store.Tx) error {
		return firstError(
			tx.PutNode(&controlv1.Node{
				Name: "gpu-07", State: controlv1.NodeState_NODE_STATE_DISCONNECTED, AgentVersion: "v1.2",
				Facts: map[string]string{"os": "linux", "gpu": "H200"}, LastSeen: timestamppb.New(begin),
				Collectors: map[string]string{"host": "ok", "nvml": "stuck"}, SpooledEventFrames: 12, DroppedFrames: 3,
			}),
			seedRun(tx, begin),
			seedIncident(tx, begin.Add(412*time.Second)),
			seedCheckpoints(tx, begin),
		)
	})
	if err != nil {
		return err
	}
	return in.seedEvents(begin)
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func seedRun(tx *store.Tx, begin time.Time) error {
	return firstError(
		tx.PutRun(&controlv1.Run{
			RunId: "digits-7f3a", Name: "two overlaid digits", State: controlv1.RunState_RUN_STATE_RUNNING, Attempt: 1,
			Step: 1412, TotalSteps: 3000, Loss: proto.Float64(0.41234), WorldSize: 1, Nodes: []string{"gpu-07"},
			Started: timestamppb.New(begin), Settings: map[string]string{"lr": "0.002", "batch": "64", "seed": "7"},
		}, 1),
		tx.PutRun(&controlv1.Run{
			RunId: "digits-11aa", Name: "baseline", State: controlv1.RunState_RUN_STATE_SUCCEEDED, Step: 3000, TotalSteps: 3000,
			WorldSize: 1, Nodes: []string{"gpu-07"}, Started: timestamppb.New(begin.Add(-26 * time.Hour)),
			Ended: timestamppb.New(begin.Add(-25 * time.Hour)), Explanation: "made all 3000 steps",
			ParametersSha256: strings.Repeat("ab", 32),
		}, 1),
		tx.PutAttempt("digits-7f3a", &controlv1.Attempt{
			Started: timestamppb.New(begin), Ended: timestamppb.New(begin.Add(412 * time.Second)),
			Failure: commonv1.FailureKind_FAILURE_KIND_NONFINITE, Explanation: "stopped before step 812 used a NaN",
		}),
		tx.PutAttempt("digits-7f3a", &controlv1.Attempt{
			Attempt: 1, Started: timestamppb.New(begin.Add(413 * time.Second)), ResumedCheckpointId: "c-811", ResumedStep: 811,
		}),
	)
}

func seedIncident(tx *store.Tx, at time.Time) error {
	finding := &controlv1.Finding{
		FindingId: "f1", RunId: "digits-7f3a", Kind: "nonfinite", Severity: commonv1.Severity_SEVERITY_CRITICAL,
		OnsetStep: 812, Step: 812, Node: "gpu-07", Evidence: map[string]float64{"nan_values": 64, "tensor_values": 2048},
		EventTime: timestamppb.New(at), Created: timestamppb.New(at.Add(2 * time.Millisecond)),
	}
	_, err := tx.PutFinding(finding)
	if err != nil {
		return err
	}
	err = firstError(
		tx.PutIncident(store.IncidentRecord{Incident: &controlv1.Incident{
			IncidentId: "inc-42", RunId: "digits-7f3a", Kind: "nonfinite", Severity: commonv1.Severity_SEVERITY_CRITICAL,
			State:   controlv1.IncidentState_INCIDENT_STATE_FIRING,
			Summary: "Run digits-7f3a met NaN in the gradient of encoder.w at step 812; it stopped before the update, its parameters are good.",
			Opened:  timestamppb.New(at.Add(2 * time.Millisecond)),
		}, Findings: 1, OnsetStep: 812}),
		tx.AttachFinding("inc-42", "f1"))
	if err != nil {
		return err
	}
	for _, entry := range []*controlv1.TimelineEntry{
		{Time: timestamppb.New(at.Add(2 * time.Millisecond)), Action: "opened", Text: "nonfinite on rank 0 of gpu-07, from step 812 on"},
		{Time: timestamppb.New(at.Add(3 * time.Millisecond)), Action: "checkpoint", Text: "asked for an emergency checkpoint"},
		{Time: timestamppb.New(at.Add(21 * time.Millisecond)), Action: "notified", Text: "oncall took it"},
		{Time: timestamppb.New(at.Add(38 * time.Millisecond)), Action: "checkpoint", Text: "checkpoint of step 811 is verified"},
	} {
		if err := tx.AddTimeline("inc-42", entry); err != nil {
			return err
		}
	}
	return nil
}

func seedCheckpoints(tx *store.Tx, begin time.Time) error {
	at := begin.Add(412 * time.Second)
	var stages []*controlv1.StageTime
	for i, ms := range []int{3, 7, 18, 24, 38} {
		stages = append(stages, &controlv1.StageTime{
			State: commonv1.CheckpointState(i + 1), Time: timestamppb.New(at.Add(time.Duration(ms) * time.Millisecond)),
		})
	}
	return firstError(
		tx.PutCheckpoint(&controlv1.Checkpoint{
			CheckpointId: "01934f6e-7c1b-7d3a-9b1e-0123456789ab", RunId: "digits-7f3a", Step: 811, SizeBytes: 312400,
			State:  commonv1.CheckpointState_CHECKPOINT_STATE_VERIFIED,
			Health: commonv1.CheckpointHealth_CHECKPOINT_HEALTH_HEALTHY,
			Reason: commonv1.CheckpointReason_CHECKPOINT_REASON_EMERGENCY,
			Node:   "gpu-07", Path: "/var/lib/vigil/vault/digits-7f3a/811", ManifestSha256: strings.Repeat("9f2c", 16), Stages: stages,
			KeepReasons: []string{"the last verified healthy one", "one of the last 3"},
		}),
		tx.PutCheckpoint(&controlv1.Checkpoint{
			CheckpointId: "01934f6e-0000-7d3a-9b1e-0123456789ab", RunId: "digits-7f3a",
			State: commonv1.CheckpointState_CHECKPOINT_STATE_FAILED, Error: "agent of node gpu-07 did not answer within 1m0s; is it running?",
			Reason: commonv1.CheckpointReason_CHECKPOINT_REASON_OPERATOR,
			Stages: []*controlv1.StageTime{{State: 1, Time: timestamppb.New(begin.Add(time.Minute))}, {State: 7, Time: timestamppb.New(begin.Add(2 * time.Minute))}},
		}),
	)
}

// seedEvents puts one event of each sort on the bus.
func (in *installation) seedEvents(begin time.Time) error {
	bodies := []*commonv1.Event{
		{Body: &commonv1.Event_AttemptStarted{AttemptStarted: &commonv1.AttemptStarted{Command: []string{"vigil-trainer", "train"}, Pid: 40}}},
		{Body: &commonv1.Event_TrainerRegistered{TrainerRegistered: &commonv1.TrainerRegistered{WorldSize: 1, Pid: 41, Framework: "vigil-multitask/1"}}},
		{Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: 811, Loss: proto.Float64(0.52), GradientNorm: proto.Float64(1.5), StepSeconds: proto.Float64(0.0031)}}},
		{Body: &commonv1.Event_NonFinite{NonFinite: &commonv1.NonFinite{Step: 812, Quantity: commonv1.Quantity_QUANTITY_GRADIENT, Tensor: "encoder.w", NanCount: 64, TensorSize: 2048, ParametersIntact: true}}},
		{Body: &commonv1.Event_CommandResult{CommandResult: &commonv1.CommandResult{CommandId: "k1", Stage: commonv1.CommandStage_COMMAND_STAGE_ACCEPTED}}},
		{Body: &commonv1.Event_Checkpoint{Checkpoint: &commonv1.CheckpointProgress{CheckpointId: "c-811", State: commonv1.CheckpointState_CHECKPOINT_STATE_STAGED, Step: 811, SizeBytes: 312400}}},
		{Body: &commonv1.Event_AttemptEnded{AttemptEnded: &commonv1.AttemptEnded{ExitCode: proto.Int32(75), Explanation: "saved and asked to be restarted", Restarting: true, BackoffSeconds: 0.5}}},
		{Body: &commonv1.Event_Resumed{Resumed: &commonv1.Resumed{CheckpointId: "c-811", Step: 811}}},
		{Body: &commonv1.Event_RunEnded{RunEnded: &commonv1.RunEnded{Outcome: commonv1.Outcome_OUTCOME_SUCCEEDED, Step: 3000}}},
		{},
	}
	for i, event := range bodies {
		event.Time = timestamppb.New(begin.Add(time.Duration(i) * time.Second))
		if err := in.publish("digits-7f3a", uint64(i+1), event); err != nil {
			return err
		}
	}
	return nil
}

// publish puts one event of a run on the bus, as the agent's n-th frame.
func (in *installation) publish(runID string, n uint64, event *commonv1.Event) error {
	event.RunId = runID
	_, err := in.bus.Publish(context.Background(), bus.Message{
		Node: "gpu-07", Position: &agentv1.Position{Epoch: 1, Sequence: n}, Received: time.Now(),
		Batch: &agentv1.EventBatch{RunId: runID, Events: []*commonv1.Event{event}},
	})
	return err
}

func stepEvent(step int64) *commonv1.Event {
	return &commonv1.Event{Time: timestamppb.Now(), Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: step}}}
}
