package alertapi

import (
	"context"
	"net/http"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/alerting/match"
	"github.com/vigil-ml/vigil/controlplane/access"
	"github.com/vigil-ml/vigil/controlplane/routing"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// silence is a silence as it is sent and shown.
type silence struct {
	ID        string         `json:"id,omitempty"`
	Status    *silenceStatus `json:"status,omitempty"`
	UpdatedAt *time.Time     `json:"updatedAt,omitempty"`
	Comment   string         `json:"comment"`
	CreatedBy string         `json:"createdBy"`
	StartsAt  time.Time      `json:"startsAt"`
	EndsAt    time.Time      `json:"endsAt"`
	Matchers  []matcher      `json:"matchers"`
	// Annotations is what programs note beside the comment.
	Annotations map[string]string `json:"annotations"`
}

type silenceStatus struct {
	State string `json:"state"`
}

type matcher struct {
	Name    string `json:"name"`
	Value   string `json:"value"`
	IsRegex bool   `json:"isRegex"`
	IsEqual *bool  `json:"isEqual,omitempty"` // absent means true
}

func (m matcher) message() *controlv1.Matcher {
	equal := m.IsEqual == nil || *m.IsEqual
	how := controlv1.MatchOperator_MATCH_OPERATOR_EQUAL
	switch {
	case m.IsRegex && equal:
		how = controlv1.MatchOperator_MATCH_OPERATOR_REGEXP
	case m.IsRegex:
		how = controlv1.MatchOperator_MATCH_OPERATOR_NOT_REGEXP
	case !equal:
		how = controlv1.MatchOperator_MATCH_OPERATOR_NOT_EQUAL
	}
	return &controlv1.Matcher{Name: m.Name, Value: m.Value, Operator: how}
}

func showMatcher(m *controlv1.Matcher) matcher {
	equal := m.GetOperator() == controlv1.MatchOperator_MATCH_OPERATOR_EQUAL ||
		m.GetOperator() == controlv1.MatchOperator_MATCH_OPERATOR_REGEXP
	return matcher{
		Name: m.GetName(), Value: m.GetValue(), IsEqual: &equal,
		IsRegex: m.GetOperator() == controlv1.MatchOperator_MATCH_OPERATOR_REGEXP ||
			m.GetOperator() == controlv1.MatchOperator_MATCH_OPERATOR_NOT_REGEXP,
	}
}

func (a *API) showSilence(ctx context.Context, s *controlv1.Silence) silence {
	updated := utc(s.GetUpdated())
	shown := silence{
		ID: s.GetSilenceId(), Status: &silenceStatus{s.GetState()}, UpdatedAt: &updated, Comment: s.GetComment(),
		CreatedBy: s.GetAuthor(), StartsAt: utc(s.GetStarts()), EndsAt: utc(s.GetEnds()), Matchers: []matcher{},
		Annotations: notNil(s.GetAnnotations()),
	}
	if a.deps.Name != nil {
		shown.CreatedBy, shown.Comment = a.deps.Name(ctx, shown.CreatedBy), a.deps.Name(ctx, shown.Comment)
	}
	for _, m := range s.GetMatchers() {
		shown.Matchers = append(shown.Matchers, showMatcher(m))
	}
	return shown
}

func (a *API) listSilences(r *http.Request) (any, error) {
	filter, err := match.Parse(r.URL.Query()["filter"]...)
	if err != nil {
		return nil, err
	}
	var all []*controlv1.Silence
	err = a.view(r, func(tx *store.Tx) (err error) {
		all, err = tx.Silences(time.Time{})
		return err
	})
	if err != nil {
		return nil, err
	}
	shown := []silence{}
	for _, s := range all {
		if routing.WithState(s, a.deps.Clock()); flag(r, s.GetState()) && about(s, filter) {
			shown = append(shown, a.showSilence(r.Context(), s)) // it may read the store for names
		}
	}
	slices.SortStableFunc(shown, byState)
	return shown, nil
}

// byState orders silences as Alertmanager does: those that hold by their end,
// those to come by their begin, those that ended with the last one first.
func byState(a, b silence) int {
	place := map[string]int{"active": 0, "pending": 1, "expired": 2}
	if order := place[a.Status.State] - place[b.Status.State]; order != 0 {
		return order
	}
	switch a.Status.State {
	case "active":
		return a.EndsAt.Compare(b.EndsAt)
	case "pending":
		return a.StartsAt.Compare(b.StartsAt)
	}
	return b.EndsAt.Compare(a.EndsAt)
}

// about tells whether a silence has every matcher of a filter: the same label,
// comparison and value.
func about(s *controlv1.Silence, filter match.Matchers) bool {
	for _, want := range match.Messages(filter) {
		has := func(m *controlv1.Matcher) bool { return proto.Equal(m, want) }
		if !slices.ContainsFunc(s.GetMatchers(), has) {
			return false
		}
	}
	return true
}

func (a *API) postSilence(r *http.Request) (any, error) {
	var s silence
	if err := read(r, &s); err != nil {
		return nil, err
	}
	author := s.CreatedBy // programs say for whom they do it
	if who := access.Of(r.Context()); who != nil && who.Kind == access.KindUser {
		author = who.Author("")
	}
	asked := &controlv1.Silence{
		SilenceId: s.ID, Author: author, Comment: s.Comment,
		Starts: timestamppb.New(s.StartsAt), Ends: timestamppb.New(s.EndsAt), Annotations: s.Annotations,
	}
	for _, m := range s.Matchers {
		asked.Matchers = append(asked.Matchers, m.message())
	}
	var made *controlv1.Silence
	err := a.deps.Store.Update(r.Context(), func(tx *store.Tx) (err error) {
		made, err = a.deps.Router.SetSilence(tx, asked)
		return err
	})
	if err != nil {
		return nil, err
	}
	return map[string]string{"silenceID": made.GetSilenceId()}, nil
}

func (a *API) getSilence(r *http.Request) (any, error) {
	var found *controlv1.Silence
	err := a.view(r, func(tx *store.Tx) (err error) { found, err = tx.Silence(r.PathValue("id")); return err })
	if err != nil {
		return nil, err
	}
	return a.showSilence(r.Context(), routing.WithState(found, a.deps.Clock())), nil
}

func (a *API) deleteSilence(r *http.Request) (any, error) {
	err := a.deps.Store.Update(r.Context(), func(tx *store.Tx) error {
		_, err := a.deps.Router.ExpireSilence(tx, r.PathValue("id"), "")
		if fault.Is(err, fault.Precondition) {
			return nil // it has ended, and Alertmanager minds that as little
		}
		return err
	})
	return nil, err
}
