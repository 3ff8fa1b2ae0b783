package settings

import (
	"fmt"
	"maps"
	"time"

	"github.com/vigil-ml/vigil/internal/protocol"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	"github.com/vigil-ml/vigil/trainer/supervise"
	"github.com/vigil-ml/vigil/trainer/supervise/policy"
)

// action gives a key that is set its effect and says who does what.
type action func(f File, c *supervise.Config) (by, what string)

// actions is what Vigil itself does about keys, by "section.key".
func actions() map[string]action {
	all := map[string]action{}
	for _, section := range []map[string]action{
		securityActions(), limitsActions(), preemptionActions(), monitoringActions(), recoveryActions(), loggingActions(),
	} {
		maps.Copy(all, section)
	}
	return all
}

func securityActions() map[string]action {
	return map[string]action{
		"security.encrypt_checkpoints": func(f File, _ *supervise.Config) (string, string) {
			if !*f.Security.EncryptCheckpoints {
				return byAgent, "nothing is asked of the vault; it encrypts where its own configuration says so"
			}
			return byAgent, "the run is refused unless the agent's vault encrypts"
		},
		"security.secure_logging": func(f File, c *supervise.Config) (string, string) {
			c.Output.Secrets = *f.Security.SecureLogging
			return bySupervisor, "passwords, tokens and keys in the output are masked"
		},
		"security.gdpr_compliant": func(f File, c *supervise.Config) (string, string) {
			c.Output.Personal = *f.Security.GDPRCompliant
			return bySupervisor, "e-mail and IP addresses in the output are masked"
		},
	}
}

func limitsActions() map[string]action {
	return map[string]action{
		"limits.max_training_time_hours": func(f File, c *supervise.Config) (string, string) {
			c.Limits.Training = scaled(*f.Limits.MaxTrainingTimeHours, time.Hour)
			return bySupervisor, "the run is saved and stopped after " + c.Limits.Training.String()
		},
		"limits.max_gpu_memory_gb": func(f File, c *supervise.Config) (string, string) {
			c.Limits.GPUMemoryBytes = gigabytes(*f.Limits.MaxGPUMemoryGB)
			return bySupervisor, "the run is saved and stopped when the process reports more GPU memory"
		},
		"limits.max_checkpoint_size_gb": func(f File, c *supervise.Config) (string, string) {
			c.Limits.CheckpointBytes = gigabytes(*f.Limits.MaxCheckpointSizeGB)
			return bySDK, "a larger checkpoint is not handed over, and said to have failed"
		},
	}
}

func preemptionActions() map[string]action {
	return map[string]action{
		"preemption.timeout_minutes": func(f File, c *supervise.Config) (string, string) {
			c.Limits.Allocation = scaled(*f.Preemption.TimeoutMinutes, time.Minute)
			return bySupervisor, "the machine is the run's for so long: it is saved and stopped, to be queued again, before that is over"
		},
		"preemption.grace_period_seconds": func(f File, c *supervise.Config) (string, string) {
			c.Grace = scaled(*f.Preemption.GracePeriodSeconds, time.Second)
			return bySupervisor, "saving and ending may take so long when the run is told to stop"
		},
		"preemption.handle_sigusr1": func(f File, c *supervise.Config) (string, string) {
			c.PassSIGUSR1 = !*f.Preemption.HandleSIGUSR1
			return bySupervisor, either(c.PassSIGUSR1, "SIGUSR1 goes to the command", "SIGUSR1 has the run saved")
		},
		"preemption.handle_sigterm": func(f File, c *supervise.Config) (string, string) {
			c.PassSIGTERM = !*f.Preemption.HandleSIGTERM
			return bySupervisor, either(c.PassSIGTERM, "SIGTERM goes to the command", "SIGTERM has the run saved and stopped")
		},
		"preemption.max_retries": func(f File, c *supervise.Config) (string, string) {
			onPreempted(c, func(p *policy.Policy) { p.Retries = *f.Preemption.MaxRetries })
			return bySupervisor, "restarts in a row without progress after a preemption"
		},
		"preemption.exponential_backoff": func(f File, c *supervise.Config) (string, string) {
			if !*f.Preemption.ExponentialBackoff {
				onPreempted(c, func(p *policy.Policy) { p.Backoff.Factor = 1 })
				return bySupervisor, "every restart after a preemption waits as long as the first"
			}
			onPreempted(c, func(p *policy.Policy) { p.Backoff.Factor = max(2, p.Backoff.Factor) })
			return bySupervisor, "each restart after a preemption waits twice as long as the one before"
		},
	}
}

func monitoringActions() map[string]action {
	return map[string]action{
		"monitoring.monitor_gpu_memory": func(f File, c *supervise.Config) (string, string) {
			c.Health.GPUMemory = *f.Monitoring.MonitorGPUMemory
			return bySupervisor, either(c.Health.GPUMemory, "the GPU memory that the process reports is watched", "limits.max_gpu_memory_gb is not watched")
		},
		"monitoring.monitor_cpu_usage": func(f File, c *supervise.Config) (string, string) {
			c.Health.CPU = *f.Monitoring.MonitorCPUUsage
			return bySupervisor, "CPU time of the processes is measured, as evidence for hangs: " + fmt.Sprint(c.Health.CPU)
		},
		"monitoring.detect_memory_leaks": func(f File, c *supervise.Config) (string, string) {
			c.Health.Memory = *f.Monitoring.DetectMemoryLeaks
			return bySupervisor, "memory that only grows is told: " + fmt.Sprint(c.Health.Memory)
		},
		"monitoring.health_check_interval": func(f File, c *supervise.Config) (string, string) {
			c.Health.Interval = scaled(*f.Monitoring.HealthCheckInterval, time.Second)
			return bySupervisor, "the command's health is looked at so often"
		},
	}
}

func recoveryActions() map[string]action {
	return map[string]action{
		"recovery.auto_resume_on_restart": func(f File, c *supervise.Config) (string, string) {
			c.NoResume = !*f.Recovery.AutoResumeOnRestart
			return bySDK, either(c.NoResume, "every attempt begins anew", "an attempt goes on from a checkpoint")
		},
		"recovery.validate_checkpoint_before_resume": func(f File, _ *supervise.Config) (string, string) {
			if *f.Recovery.ValidateCheckpointBeforeResume {
				return byAgent, "the vault reads every byte before it names a checkpoint"
			}
			return byAgent, "refused: the vault reads every byte before it names a checkpoint, whatever is set here"
		},
		"recovery.fallback_to_earlier_checkpoint": func(f File, c *supervise.Config) (string, string) {
			c.Environment = append(c.Environment, fmt.Sprintf("%s=%v", protocol.EnvFallback, *f.Recovery.FallbackToEarlierCheckpoint))
			return bySDK, either(*f.Recovery.FallbackToEarlierCheckpoint, "an earlier checkpoint will do", "a newest checkpoint that is not fit ends the run")
		},
		"recovery.recovery_mode": func(f File, c *supervise.Config) (string, string) {
			c.Environment = append(c.Environment, protocol.EnvMode+"="+*f.Recovery.RecoveryMode)
			return bySDK, "the agent is asked for the " + *f.Recovery.RecoveryMode + " checkpoint"
		},
	}
}

func loggingActions() map[string]action {
	return map[string]action{
		"logging.use_wandb": func(f File, c *supervise.Config) (string, string) {
			if *f.Logging.UseWandb {
				return passedOn, "the training command finds it as VIGIL_LOGGING_USE_WANDB"
			}
			c.Environment = append(c.Environment, "WANDB_MODE=disabled")
			return passedOn, "as VIGIL_LOGGING_USE_WANDB, and as WANDB_MODE=disabled, which the wandb library honours"
		},
	}
}

func onPreempted(c *supervise.Config, change func(*policy.Policy)) {
	name := policy.Name(commonv1.FailureKind_FAILURE_KIND_PREEMPTED)
	p := c.Policy.Kinds[name]
	change(&p)
	c.Policy.Kinds[name] = p
}

func scaled(value float64, unit time.Duration) time.Duration {
	return time.Duration(value * float64(unit))
}

// gigabytes is a number of GB, of 10^9 bytes, in bytes.
func gigabytes(value float64) int64 { return int64(value * 1e9) }

func either(yes bool, one, other string) string {
	if yes {
		return one
	}
	return other
}
