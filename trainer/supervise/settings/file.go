// Package settings reads the configuration of a training run as its users know
// it (production_config.yaml, preemption_config.yaml, monitoring_config.yaml)
// and gives every key its effect: on the supervision of the run, or on the
// training command, to which all keys are passed. Nothing is ignored silently:
// [Apply] says of each key who does what about it.
package settings

import (
	"github.com/vigil-ml/vigil/internal/conf"
)

// File is all sections; a key that is not set is nil.
type File struct {
	Checkpoint Checkpoint `yaml:"checkpoint"`
	Security   Security   `yaml:"security"`
	Limits     Limits     `yaml:"limits"`
	Preemption Preemption `yaml:"preemption"`
	Monitoring Monitoring `yaml:"monitoring"`
	Recovery   Recovery   `yaml:"recovery"`
	Training   Training   `yaml:"training"`
	Model      Model      `yaml:"model"`
	Logging    Logging    `yaml:"logging"`
}

// Checkpoint is how the run saves.
type Checkpoint struct {
	SaveEveryNEpochs    *int64 `yaml:"save_every_n_epochs"`
	SaveOptimizerStates *bool  `yaml:"save_optimizer_states"`
	AsyncSave           *bool  `yaml:"async_save"`
	BackupToS3          *bool  `yaml:"backup_to_s3"`
}

// Security is what is kept from others.
type Security struct {
	EncryptCheckpoints *bool `yaml:"encrypt_checkpoints"`
	SecureLogging      *bool `yaml:"secure_logging"`
	GDPRCompliant      *bool `yaml:"gdpr_compliant"`
}

// Limits end the run or refuse a checkpoint.
type Limits struct {
	MaxTrainingTimeHours *float64 `yaml:"max_training_time_hours"`
	MaxGPUMemoryGB       *float64 `yaml:"max_gpu_memory_gb"`
	MaxCheckpointSizeGB  *float64 `yaml:"max_checkpoint_size_gb"`
}

// Preemption is what is done when the machine is taken away.
type Preemption struct {
	TimeoutMinutes     *float64 `yaml:"timeout_minutes"`
	GracePeriodSeconds *float64 `yaml:"grace_period_seconds"`
	HandleSIGUSR1      *bool    `yaml:"handle_sigusr1"`
	HandleSIGTERM      *bool    `yaml:"handle_sigterm"`
	MaxRetries         *int     `yaml:"max_retries"`
	ExponentialBackoff *bool    `yaml:"exponential_backoff"`
}

// Monitoring is what is looked at while the run trains.
type Monitoring struct {
	MonitorGPUMemory    *bool    `yaml:"monitor_gpu_memory"`
	MonitorCPUUsage     *bool    `yaml:"monitor_cpu_usage"`
	DetectNaNGradients  *bool    `yaml:"detect_nan_gradients"`
	DetectMemoryLeaks   *bool    `yaml:"detect_memory_leaks"`
	HealthCheckInterval *float64 `yaml:"health_check_interval"` // seconds
}

// Recovery is where the run goes on after an end.
type Recovery struct {
	AutoResumeOnRestart            *bool   `yaml:"auto_resume_on_restart"`
	ValidateCheckpointBeforeResume *bool   `yaml:"validate_checkpoint_before_resume"`
	FallbackToEarlierCheckpoint    *bool   `yaml:"fallback_to_earlier_checkpoint"`
	RecoveryMode                   *string `yaml:"recovery_mode"` // exact, latest, best
}

// Training is what the command is to train with.
type Training struct {
	Epochs                    *int64   `yaml:"epochs"`
	BatchSize                 *int64   `yaml:"batch_size"`
	LearningRate              *float64 `yaml:"learning_rate"`
	GradientAccumulationSteps *int64   `yaml:"gradient_accumulation_steps"`
	LabelSmoothing            *float64 `yaml:"label_smoothing"`
}

// Model is what the command trains.
type Model struct {
	Name                  *string `yaml:"name"`
	HiddenSize            *int64  `yaml:"hidden_size"`
	NumLayers             *int64  `yaml:"num_layers"`
	GradientCheckpointing *bool   `yaml:"gradient_checkpointing"`
	UseCache              *bool   `yaml:"use_cache"`
}

// Logging is where the command's measurements go.
type Logging struct {
	UseWandb                *bool `yaml:"use_wandb"`
	UseTensorboard          *bool `yaml:"use_tensorboard"`
	TrackCarbonEmissions    *bool `yaml:"track_carbon_emissions"`
	SendLogsToElasticsearch *bool `yaml:"send_logs_to_elasticsearch"`
}

// Load reads files one over the other: a key of a later one wins. The error has
// all mistakes of a file, as [conf.Problems].
func Load(paths ...string) (File, error) {
	var f File
	for _, path := range paths {
		if err := conf.Load(path, &f); err != nil {
			return File{}, err
		}
	}
	return f, nil
}

// positive reports a number that is set and not over 0.
func positive[T int | int64 | float64](report func(key, format string, args ...any), key string, value *T) {
	if value != nil && !(*value > 0) {
		report(key, "is %v; want more than 0", *value)
	}
}

// notNegative reports a number that is set and below 0.
func notNegative[T int | int64 | float64](report func(key, format string, args ...any), key string, value *T) {
	if value != nil && !(*value >= 0) {
		report(key, "is %v; want at least 0", *value)
	}
}

// Check reports numbers that cannot be.
func (c Checkpoint) Check(report func(key, format string, args ...any)) {
	positive(report, "save_every_n_epochs", c.SaveEveryNEpochs)
}

// Check reports numbers that cannot be.
func (l Limits) Check(report func(key, format string, args ...any)) {
	positive(report, "max_training_time_hours", l.MaxTrainingTimeHours)
	positive(report, "max_gpu_memory_gb", l.MaxGPUMemoryGB)
	positive(report, "max_checkpoint_size_gb", l.MaxCheckpointSizeGB)
}

// Check reports numbers that cannot be.
func (p Preemption) Check(report func(key, format string, args ...any)) {
	positive(report, "timeout_minutes", p.TimeoutMinutes)
	notNegative(report, "grace_period_seconds", p.GracePeriodSeconds)
	notNegative(report, "max_retries", p.MaxRetries)
}

// Check reports numbers that cannot be.
func (m Monitoring) Check(report func(key, format string, args ...any)) {
	positive(report, "health_check_interval", m.HealthCheckInterval)
}

// Check reports a mode that there is not.
func (r Recovery) Check(report func(key, format string, args ...any)) {
	if r.RecoveryMode != nil && *r.RecoveryMode != "exact" && *r.RecoveryMode != "latest" && *r.RecoveryMode != "best" {
		report("recovery_mode", "is %q; want exact, latest or best", *r.RecoveryMode)
	}
}

// Check reports numbers that cannot be.
func (t Training) Check(report func(key, format string, args ...any)) {
	positive(report, "epochs", t.Epochs)
	positive(report, "batch_size", t.BatchSize)
	positive(report, "learning_rate", t.LearningRate)
	positive(report, "gradient_accumulation_steps", t.GradientAccumulationSteps)
	if t.LabelSmoothing != nil && !(*t.LabelSmoothing >= 0 && *t.LabelSmoothing < 1) {
		report("label_smoothing", "is %v; want 0 to below 1", *t.LabelSmoothing)
	}
}
