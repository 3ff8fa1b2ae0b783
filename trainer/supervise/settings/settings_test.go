package settings

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	"github.com/vigil-ml/vigil/trainer/supervise"
	"github.com/vigil-ml/vigil/trainer/supervise/policy"
)

// sample is a value for a key, and whether it had its effect.
type sample struct {
	value string
	by    string
	holds func(c supervise.Config, e Effects) bool // nil: passed on, and nothing else
}

func has(entry string) func(supervise.Config, Effects) bool {
	return func(c supervise.Config, _ Effects) bool { return slices.Contains(c.Environment, entry) }
}

func preempted(c supervise.Config) policy.Policy {
	return c.Policy.Of(commonv1.FailureKind_FAILURE_KIND_PREEMPTED)
}

// samples has every key that there is; TestEveryKeyHasItsEffect holds it to that.
func samples() map[string]sample {
	return map[string]sample{
		"checkpoint.save_every_n_epochs":   {"2", passedOn, nil},
		"checkpoint.save_optimizer_states": {"false", passedOn, nil},
		"checkpoint.async_save":            {"false", passedOn, nil},
		"checkpoint.backup_to_s3":          {"true", passedOn, nil},
		"security.encrypt_checkpoints":     {"true", byAgent, func(_ supervise.Config, e Effects) bool { return e.NeedsEncryption }},
		"security.secure_logging":          {"true", bySupervisor, func(c supervise.Config, _ Effects) bool { return c.Output.Secrets }},
		"security.gdpr_compliant":          {"true", bySupervisor, func(c supervise.Config, _ Effects) bool { return c.Output.Personal }},
		"limits.max_training_time_hours":   {"0.5", bySupervisor, func(c supervise.Config, _ Effects) bool { return c.Limits.Training == 30*time.Minute }},
		"limits.max_gpu_memory_gb":         {"1.5", bySupervisor, func(c supervise.Config, _ Effects) bool { return c.Limits.GPUMemoryBytes == 1500000000 }},
		"limits.max_checkpoint_size_gb":    {"2", bySDK, func(c supervise.Config, _ Effects) bool { return c.Limits.CheckpointBytes == 2000000000 }},
		"preemption.timeout_minutes":       {"90", bySupervisor, func(c supervise.Config, _ Effects) bool { return c.Limits.Allocation == 90*time.Minute }},
		"preemption.grace_period_seconds":  {"2.5", bySupervisor, func(c supervise.Config, _ Effects) bool { return c.Grace == 2500*time.Millisecond }},
		"preemption.handle_sigusr1":        {"false", bySupervisor, func(c supervise.Config, _ Effects) bool { return c.PassSIGUSR1 && !c.PassSIGTERM }},
		"preemption.handle_sigterm":        {"false", bySupervisor, func(c supervise.Config, _ Effects) bool { return c.PassSIGTERM && !c.PassSIGUSR1 }},
		"preemption.max_retries":           {"7", bySupervisor, func(c supervise.Config, _ Effects) bool { return preempted(c).Retries == 7 }},
		"preemption.exponential_backoff":   {"false", bySupervisor, func(c supervise.Config, _ Effects) bool { return preempted(c).Backoff.Factor == 1 }},
		"monitoring.monitor_gpu_memory":    {"false", bySupervisor, func(c supervise.Config, _ Effects) bool { return !c.Health.GPUMemory }},
		"monitoring.monitor_cpu_usage":     {"false", bySupervisor, func(c supervise.Config, _ Effects) bool { return !c.Health.CPU }},
		"monitoring.detect_memory_leaks":   {"false", bySupervisor, func(c supervise.Config, _ Effects) bool { return !c.Health.Memory }},
		"monitoring.health_check_interval": {"45", bySupervisor, func(c supervise.Config, _ Effects) bool { return c.Health.Interval == 45*time.Second }},
		"monitoring.detect_nan_gradients":  {"false", passedOn, nil},
		"recovery.auto_resume_on_restart":  {"false", bySDK, func(c supervise.Config, _ Effects) bool { return c.NoResume }},
		"recovery.validate_checkpoint_before_resume": {"false", byAgent, func(_ supervise.Config, e Effects) bool {
			return strings.HasPrefix(e.List[0].What, "refused: ") // said, and not ignored
		}},
		"recovery.fallback_to_earlier_checkpoint": {"false", bySDK, has("VIGIL_RESUME_FALLBACK=false")},
		"recovery.recovery_mode":                  {"best", bySDK, has("VIGIL_RECOVERY_MODE=best")},
		"training.epochs":                         {"3", passedOn, nil},
		"training.batch_size":                     {"32", passedOn, nil},
		"training.learning_rate":                  {"0.01", passedOn, nil},
		"training.gradient_accumulation_steps":    {"4", passedOn, nil},
		"training.label_smoothing":                {"0.1", passedOn, nil},
		"model.name":                              {"bert", passedOn, nil},
		"model.hidden_size":                       {"768", passedOn, nil},
		"model.num_layers":                        {"12", passedOn, nil},
		"model.gradient_checkpointing":            {"true", passedOn, nil},
		"model.use_cache":                         {"false", passedOn, nil},
		"logging.use_wandb":                       {"false", passedOn, has("WANDB_MODE=disabled")},
		"logging.use_tensorboard":                 {"true", passedOn, nil},
		"logging.track_carbon_emissions":          {"true", passedOn, nil},
		"logging.send_logs_to_elasticsearch":      {"true", passedOn, nil},
	}
}

// everyKey gives the keys that files may have.
func everyKey() (all []string) {
	sections := reflect.TypeFor[File]()
	for i := range sections.NumField() {
		section := sections.Field(i)
		for j := range section.Type.NumField() {
			all = append(all, section.Tag.Get("yaml")+"."+section.Type.Field(j).Tag.Get("yaml"))
		}
	}
	return all
}

// write makes a file with one key.
func write(t *testing.T, key, value string) string {
	t.Helper()
	section, name, _ := strings.Cut(key, ".")
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, fmt.Appendf(nil, "%s:\n  %s: %s\n", section, name, value), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEveryKeyHasItsEffect(t *testing.T) {
	all := samples()
	if keys := everyKey(); len(keys) != len(all) || len(keys) != 39 {
		t.Errorf("files have %d keys and %d are tried; the users know 39", len(keys), len(all))
	}
	for _, key := range everyKey() {
		s, ok := all[key]
		if !ok {
			t.Errorf("nobody knows what %s does", key)
			continue
		}
		f, err := Load(write(t, key, s.value))
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		c := supervise.Defaults()
		if s.holds != nil && s.holds(c, Effects{List: []Effect{{}}}) {
			t.Errorf("%s: the test would hold without it", key)
		}
		effects := Apply(f, &c)
		if len(effects.List) != 1 || effects.List[0].Key != key || effects.List[0].Value != s.value || effects.List[0].By != s.by || effects.List[0].What == "" {
			t.Errorf("%s is said to do %+v", key, effects.List)
			continue
		}
		if s.holds != nil && !s.holds(c, effects) {
			t.Errorf("%s: %s has no effect: %+v", key, s.value, c)
		}
		// The command gets it whatever else is done.
		if !has(variable(key)+"="+s.value)(c, effects) {
			t.Errorf("%s is not passed on: %q", key, c.Environment)
		}
		text, err := JSON(f)
		var out map[string]map[string]any
		section, name, _ := strings.Cut(key, ".")
		if err != nil || json.Unmarshal(text, &out) != nil || fmt.Sprint(out[section][name]) != s.value {
			t.Errorf("%s is %v in the JSON %s", key, out[section][name], text)
		}
	}
}

// The three files that are shipped have together every key, each once.
func TestTheShippedFilesHaveEveryKey(t *testing.T) {
	var paths []string
	seen := map[string]int{}
	for _, name := range []string{"production_config.yaml", "preemption_config.yaml", "monitoring_config.yaml"} {
		path := filepath.Join("../../../deploy/config", name)
		paths = append(paths, path)
		f, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range keys(f) {
			seen[k.name]++
		}
	}
	for _, key := range everyKey() {
		if seen[key] != 1 {
			t.Errorf("%s is in the files %d times", key, seen[key])
		}
	}
	f, err := Load(paths...)
	if err != nil {
		t.Fatal(err)
	}
	c := supervise.Defaults()
	if got := len(Apply(f, &c).List); got != len(everyKey()) {
		t.Errorf("together %d keys have an effect", got)
	}
}

func TestMistakesAreNamed(t *testing.T) {
	for key, value := range map[string]string{
		"checkpoint.save_every_n_epochs": "0", "limits.max_gpu_memory_gb": "-1", "preemption.max_retries": "-1",
		"monitoring.health_check_interval": "0", "recovery.recovery_mode": "newest", "training.label_smoothing": "1.5",
		"training.epochs": "many", "training.epoch": "3", "security.encrypt": "true",
	} {
		if _, err := Load(write(t, key, value)); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %s gives %v", key, value, err)
		}
	}
}
