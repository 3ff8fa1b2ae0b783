package api

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/detect/profile"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const (
	hintFindings   = "agentctl get findings lists the findings"
	maxNoteBytes   = 4096
	maxAuthorBytes = 256
)

// findings is the FindingService.
type findings struct {
	controlv1.UnimplementedFindingServiceServer
	store    *store.Store
	profiles *profile.Profiles
	clock    func() time.Time
}

// ListFindings lists findings, the newest first.
func (s *findings) ListFindings(ctx context.Context, in *controlv1.ListFindingsRequest) (*controlv1.ListFindingsResponse, error) {
	limit, err := limitOf(in.Limit)
	if err != nil {
		return nil, err
	}
	out := &controlv1.ListFindingsResponse{}
	err = s.store.View(ctx, func(tx *store.Tx) (err error) {
		if err := known(tx, in.RunId); err != nil {
			return err
		}
		out.Findings, err = tx.Findings(in.RunId, in.Kind, limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// GetFinding shows one finding.
func (s *findings) GetFinding(ctx context.Context, in *controlv1.GetFindingRequest) (*controlv1.GetFindingResponse, error) {
	out := &controlv1.GetFindingResponse{}
	err := s.store.View(ctx, func(tx *store.Tx) (err error) {
		out.Finding, err = findFinding(tx, in.FindingId)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func findFinding(tx *store.Tx, id string) (*controlv1.FindingRecord, error) {
	if err := required("finding_id", id, hintFindings); err != nil {
		return nil, err
	}
	found, err := tx.Finding(id)
	if fault.Is(err, fault.NotFound) {
		return nil, fault.WithHint(fault.New(fault.NotFound, "there is no finding %q", id), hintFindings)
	}
	return found, err
}

// JudgeFinding keeps what a person says of a finding, and writes it into the
// timeline of its incident.
func (s *findings) JudgeFinding(ctx context.Context, in *controlv1.JudgeFindingRequest) (*controlv1.JudgeFindingResponse, error) {
	switch {
	case in.Verdict != controlv1.Verdict_VERDICT_CONFIRMED && in.Verdict != controlv1.Verdict_VERDICT_FALSE_ALARM:
		return nil, fault.New(fault.Invalid, "verdict is %s; want VERDICT_CONFIRMED or VERDICT_FALSE_ALARM", in.Verdict)
	case len(in.Note) > maxNoteBytes:
		return nil, fault.New(fault.Invalid, "note has %d bytes; at most %d", len(in.Note), maxNoteBytes)
	case len(in.Author) > maxAuthorBytes:
		return nil, fault.New(fault.Invalid, "author has %d bytes; at most %d", len(in.Author), maxAuthorBytes)
	}
	now := timestamppb.New(s.clock())
	out := &controlv1.JudgeFindingResponse{}
	err := s.store.Update(ctx, func(tx *store.Tx) (err error) {
		if out.Finding, err = findFinding(tx, in.FindingId); err != nil {
			return err
		}
		out.Finding.Feedback = &controlv1.Feedback{Verdict: in.Verdict, Note: in.Note, Author: in.Author, Time: now}
		if err := tx.PutFeedback(in.FindingId, out.Finding.Feedback); err != nil || out.Finding.IncidentId == "" {
			return err
		}
		return tx.AddTimeline(out.Finding.IncidentId, &controlv1.TimelineEntry{
			Time: now, Action: "feedback", Text: judged(out.Finding),
		})
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// judged is the timeline's sentence.
func judged(record *controlv1.FindingRecord) string {
	f, said := record.Finding, record.Feedback
	author := said.Author
	if author == "" {
		author = "Somebody"
	}
	verdict := "a false alarm"
	if said.Verdict == controlv1.Verdict_VERDICT_CONFIRMED {
		verdict = "right"
	}
	text := fmt.Sprintf("%s called finding %s (%s, step %d) %s", author, f.GetFindingId(), f.GetKind(), f.GetOnsetStep(), verdict)
	if said.Note != "" {
		text += ": " + strings.TrimSuffix(said.Note, ".")
	}
	return text + "."
}

// GetDetectionSettings gives the rules' settings that hold for a run.
func (s *findings) GetDetectionSettings(ctx context.Context, in *controlv1.GetDetectionSettingsRequest) (*controlv1.GetDetectionSettingsResponse, error) {
	out := &controlv1.GetDetectionSettingsResponse{}
	if in.RunId != "" {
		err := s.store.View(ctx, func(tx *store.Tx) error {
			run, err := findRun(tx, in.RunId)
			if out.Project = run.GetSettings()["project"]; out.Project == "" {
				out.Project = run.GetName()
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	chosen := s.profiles.For(in.RunId, out.Project)
	var text bytes.Buffer
	if err := yaml.NewEncoder(&text).Encode(chosen.Settings); err != nil {
		return nil, fmt.Errorf("write settings: %w", err)
	}
	out.Yaml, out.Sources = text.String(), chosen.Sources
	return out, nil
}
