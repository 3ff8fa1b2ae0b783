package vault

import (
	"fmt"

	"github.com/vigil-ml/vigil/agent/vault/finite"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// Short names for the healths.
const (
	unknown  = commonv1.CheckpointHealth_CHECKPOINT_HEALTH_UNSPECIFIED
	healthy  = commonv1.CheckpointHealth_CHECKPOINT_HEALTH_HEALTHY
	suspect  = commonv1.CheckpointHealth_CHECKPOINT_HEALTH_SUSPECT
	poisoned = commonv1.CheckpointHealth_CHECKPOINT_HEALTH_POISONED
)

// Scan is what the vault found in a rank's files, as far as it knows their
// formats ([finite]).
type Scan struct {
	Files  int   `json:"files"`  // that were looked at
	Values int64 `json:"values"` // floating-point values in them
	NaN    int64 `json:"nan"`
	Inf    int64 `json:"inf"`
	// First names the first tensor with such a value: "file: tensor".
	First string `json:"first,omitempty"`
}

// add takes in what was found in one file.
func (m *Manifest) scanned(file string, s *finite.Scanner) {
	found, ok := s.Result()
	if !ok {
		return
	}
	if m.Scan == nil {
		m.Scan = &Scan{}
	}
	m.Scan.Files++
	m.Scan.Values += found.Values
	m.Scan.NaN += found.NaN
	m.Scan.Inf += found.Inf
	if found.First != "" && m.Scan.First == "" {
		m.Scan.First = file + ": " + found.First
	}
}

// health judges what was saved. That nobody counted is not that there is
// nothing: it is unknown. A NaN poisons, whatever the trainer says. An infinite
// value does unless the trainer counted its parameters and found none: masks
// hold such values on purpose, and it knows its masks.
func (m *Manifest) health() commonv1.CheckpointHealth {
	counted := m.NonfiniteParameters
	switch {
	case counted != nil && *counted > 0, m.Scan != nil && m.Scan.NaN > 0,
		counted == nil && m.Scan != nil && m.Scan.Inf > 0:
		return poisoned
	case counted != nil, m.Scan != nil && m.Scan.Values > 0:
		return healthy
	}
	return unknown
}

// poison says what makes a rank's part poisoned; empty when it is not.
func (m *Manifest) poison() string {
	switch {
	case m.health() != poisoned:
		return ""
	case m.Scan != nil && m.Scan.NaN+m.Scan.Inf > 0:
		return fmt.Sprintf("rank %d holds %d NaN and %d infinite values, the first in %s", m.Rank, m.Scan.NaN, m.Scan.Inf, m.Scan.First)
	}
	return fmt.Sprintf("rank %d holds %d non-finite parameters", m.Rank, *m.NonfiniteParameters)
}

// worse gives the worse of two healths of which one cannot hide the other:
// poisoned, suspect, unknown, healthy.
func worse(a, b commonv1.CheckpointHealth) commonv1.CheckpointHealth {
	rank := func(h commonv1.CheckpointHealth) int {
		if h == unknown {
			return 2*int(healthy) + 1
		}
		return 2 * int(h)
	}
	if rank(a) < rank(b) {
		return b
	}
	return a
}
