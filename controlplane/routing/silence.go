package routing

import (
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/alerting/match"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Bounds of a silence.
const (
	matchersMost = 64
	commentMost  = 4096
	// annotationsMost is how many bytes a silence's annotations have in all.
	annotationsMost = 16 << 10
)

// SetSilence makes a silence, or changes the one of its id: its end, author and
// comment in place; where its matchers are others or its begin cannot move any
// more, it ends and another is made. It gives the silence as it is kept, and
// fails with [fault.Invalid] or, for an id that there is not, [fault.NotFound].
// Open incidents that it keeps quiet have it in their timeline.
func (r *Router) SetSilence(tx *store.Tx, asked *controlv1.Silence) (*controlv1.Silence, error) {
	now := r.deps.Clock()
	s := proto.CloneOf(asked)
	if s.Starts == nil {
		s.Starts = timestamppb.New(now)
	}
	if err := checkSilence(s, now); err != nil {
		return nil, err
	}
	if s.GetSilenceId() != "" {
		before, err := tx.Silence(s.GetSilenceId())
		if err != nil {
			return nil, err
		}
		if !canChange(before, s, now) {
			if before.GetEnds().AsTime().After(now) {
				before.Ends, before.Updated = timestamppb.New(now), timestamppb.New(now)
				if err := tx.PutSilence(before); err != nil {
					return nil, err
				}
			}
			s.SilenceId = ""
		}
	}
	if s.GetSilenceId() == "" {
		s.SilenceId = uuid.NewString()
		if s.GetStarts().AsTime().Before(now) {
			s.Starts = timestamppb.New(now)
		}
	}
	// amtool and Grafana know milliseconds: what they send back must be the same.
	s.Starts = timestamppb.New(s.GetStarts().AsTime().Truncate(time.Millisecond))
	s.Updated, s.State = timestamppb.New(now), ""
	if err := tx.PutSilence(s); err != nil {
		return nil, err
	}
	if err := r.noteSilence(tx, s, now); err != nil {
		return nil, err
	}
	return WithState(s, now), nil
}

func canChange(before, after *controlv1.Silence, now time.Time) bool {
	alike := slices.EqualFunc(before.GetMatchers(), after.GetMatchers(), func(a, b *controlv1.Matcher) bool { return proto.Equal(a, b) })
	switch stateOf(before, now) {
	case "active":
		return alike && before.GetStarts().AsTime().Equal(after.GetStarts().AsTime())
	case "pending":
		return alike && !after.GetStarts().AsTime().Before(now)
	}
	return false
}

func checkSilence(s *controlv1.Silence, now time.Time) error {
	ms, err := match.Of(s.GetMatchers())
	if err != nil {
		return err
	}
	// One that matches every alert there is would be a way to switch Vigil off.
	matchesAll := true
	for _, m := range ms {
		matchesAll = matchesAll && m.Matches("")
	}
	switch {
	case len(ms) == 0 || matchesAll:
		return fault.New(fault.Invalid, "a silence wants at least one matcher that does not match the empty text")
	case len(ms) > matchersMost || len(s.GetComment()) > commentMost:
		return fault.New(fault.Invalid, "a silence has at most %d matchers and a comment of %d bytes", matchersMost, commentMost)
	case sizeOf(s.GetAnnotations()) > annotationsMost:
		return fault.New(fault.Invalid, "a silence has at most %d bytes of annotations", annotationsMost)
	case s.GetAuthor() == "" || s.GetComment() == "":
		return fault.New(fault.Invalid, "a silence wants an author and a comment: say who and why")
	case s.GetEnds() == nil || !s.GetEnds().AsTime().After(s.GetStarts().AsTime()):
		return fault.New(fault.Invalid, "a silence wants an end behind its begin")
	case !s.GetEnds().AsTime().After(now):
		return fault.New(fault.Invalid, "a silence's end is in the past")
	}
	return nil
}

func sizeOf(annotations map[string]string) (bytes int) {
	for name, value := range annotations {
		bytes += len(name) + len(value)
	}
	return bytes
}

// noteSilence writes into the timeline of what a silence keeps quiet that it
// does.
func (r *Router) noteSilence(tx *store.Tx, s *controlv1.Silence, now time.Time) error {
	ms, err := match.Of(s.GetMatchers())
	if err != nil {
		return err
	}
	open, err := tx.AllOpen(alertsTold)
	if err != nil {
		return err
	}
	for _, record := range open {
		labels, err := r.labels(tx, record.Incident)
		if err != nil {
			return err
		}
		if !ms.Match(labels) {
			continue
		}
		err = note(tx, record.Incident.GetIncidentId(), now, "silenced", "%s silenced it until %s: %s (%s).", s.GetAuthor(),
			s.GetEnds().AsTime().UTC().Format("2006-01-02 15:04:05 MST"), s.GetComment(), s.GetSilenceId())
		if err != nil {
			return err
		}
	}
	return nil
}

// ExpireSilence ends a silence now. It fails with [fault.Precondition] for one
// that has ended.
func (r *Router) ExpireSilence(tx *store.Tx, id, author string) (*controlv1.Silence, error) {
	now := r.deps.Clock()
	s, err := tx.Silence(id)
	if err != nil {
		return nil, err
	}
	if stateOf(s, now) == "expired" {
		return nil, fault.New(fault.Precondition, "silence %s has already expired", id)
	}
	if stateOf(s, now) == "pending" {
		s.Starts = timestamppb.New(now)
	}
	s.Ends, s.Updated = timestamppb.New(now), timestamppb.New(now)
	if err := tx.PutSilence(s); err != nil {
		return nil, err
	}
	if err := r.noteEnd(tx, s, author, now); err != nil {
		return nil, err
	}
	return WithState(s, now), nil
}

func (r *Router) noteEnd(tx *store.Tx, s *controlv1.Silence, author string, now time.Time) error {
	ms, err := match.Of(s.GetMatchers())
	if err != nil {
		return err
	}
	open, err := tx.AllOpen(alertsTold)
	if err != nil {
		return err
	}
	if author == "" {
		author = "somebody"
	}
	for _, record := range open {
		labels, err := r.labels(tx, record.Incident)
		if err != nil {
			return err
		}
		if ms.Match(labels) {
			if err := note(tx, record.Incident.GetIncidentId(), now, "unsilenced", "%s ended silence %s.", author, s.GetSilenceId()); err != nil {
				return err
			}
		}
	}
	return nil
}

// WithState says of a silence how it is at a time.
func WithState(s *controlv1.Silence, now time.Time) *controlv1.Silence {
	s.State = stateOf(s, now)
	return s
}

func stateOf(s *controlv1.Silence, now time.Time) string {
	switch {
	case !s.GetEnds().AsTime().After(now):
		return "expired"
	case s.GetStarts().AsTime().After(now):
		return "pending"
	}
	return "active"
}
