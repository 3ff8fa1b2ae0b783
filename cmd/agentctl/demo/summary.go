package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// summary is out/run-summary.json. Times are milliseconds from the moment at
// which the trainer met the non-finite value, by the machine's one clock.
type summary struct {
	DetectMS            float64 `json:"detect_ms"`    // to the finding
	IncidentMS          float64 `json:"incident_ms"`  // to the incident
	NotifyMS            float64 `json:"notify_ms"`    // to the last receiver's 200
	CommandMS           float64 `json:"command_ms"`   // to the directive in the trainer
	StagedMS            float64 `json:"staged_ms"`    // to the trainer's commit
	DurableMS           float64 `json:"durable_ms"`   // to files and manifest on stable storage
	VerifiedMS          float64 `json:"verified_ms"`  // to every digest read back and agreed
	RestartedMS         float64 `json:"restarted_ms"` // to the launch of the next attempt
	ResumedMS           float64 `json:"resumed_ms"`   // to the next attempt's first finished step
	Exact               bool    `json:"exact"`
	DigestInterrupted   string  `json:"digest_interrupted"`
	DigestUninterrupted string  `json:"digest_uninterrupted"`
	Run                 string  `json:"run"`
	Steps               int64   `json:"steps"`
	NonFiniteStep       int64   `json:"nonfinite_step"`
	ResumedStep         int64   `json:"resumed_step"`
	IncidentID          string  `json:"incident_id"`
	CheckpointID        string  `json:"checkpoint_id"`
	Incidents           int     `json:"incidents"` // of both runs; one is right
	WallSeconds         float64 `json:"wall_seconds"`
}

func (s *summary) write(path string) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the summary: %w", err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the summary: %w", err)
	}
	return nil
}

// conclude prints the proof, last.
func (s *summary) conclude(w io.Writer, set settings) {
	_, _ = fmt.Fprintf(w, "\nsummary in %s/run-summary.json\n", set.out)
	if s.Exact {
		_, _ = fmt.Fprintf(w, "exact: after %s steps the interrupted run's parameters are bit for bit those of the undisturbed one (sha256 %s)\n",
			thousands(s.Steps), s.DigestInterrupted)
		return
	}
	_, _ = fmt.Fprintf(w, "NOT exact: interrupted sha256 %s, undisturbed sha256 %s\n", s.DigestInterrupted, s.DigestUninterrupted)
}
