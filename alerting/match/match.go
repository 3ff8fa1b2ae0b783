// Package match has matchers: what says which alerts a route, a silence or an
// inhibition is about. Their words and meaning are Alertmanager's, whose
// library it uses.
package match

import (
	"log/slog"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/alertmanager/matcher/compat"
	"github.com/prometheus/alertmanager/pkg/labels"

	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Matchers match labels when every one of them does; none match everything. A
// label that is not there is the empty text. They are read-only.
type Matchers []*labels.Matcher

// Match tells whether all match.
func (ms Matchers) Match(of map[string]string) bool {
	for _, m := range ms {
		if !m.Matches(of[m.Name]) {
			return false
		}
	}
	return true
}

// String is the matchers as Alertmanager writes them: {a="b",c=~"d"}.
func (ms Matchers) String() string { return labels.Matchers(ms).String() }

// Texts gives each matcher as text.
func (ms Matchers) Texts() []string {
	texts := make([]string, len(ms))
	for i, m := range ms {
		texts[i] = m.String()
	}
	return texts
}

// Parse reads matchers such as severity="critical" or {run=~"a.*", node!=""},
// in the words of today and in those of old. It fails with [fault.Invalid].
func Parse(texts ...string) (Matchers, error) {
	parse := compat.FallbackMatchersParser(slog.New(slog.DiscardHandler))
	var all Matchers
	for _, text := range texts {
		found, err := parse(text, "vigil")
		if err != nil {
			return nil, fault.New(fault.Invalid, "read matcher %q: %w", text, err)
		}
		all = append(all, found...)
	}
	return all, nil
}

// Old makes matchers of the words match and match_re.
func Old(equal, expressions map[string]string) (Matchers, error) {
	var all Matchers
	add := func(how labels.MatchType, from map[string]string) error {
		for name, value := range from {
			if how == labels.MatchRegexp {
				value = "^(?:" + value + ")$" // as Alertmanager's keys of groups have it
			}
			m, err := labels.NewMatcher(how, name, value)
			if err != nil {
				return fault.New(fault.Invalid, "read matcher of %s: %w", name, err)
			}
			all = append(all, m)
		}
		return nil
	}
	if err := add(labels.MatchEqual, equal); err != nil {
		return nil, err
	}
	if err := add(labels.MatchRegexp, expressions); err != nil {
		return nil, err
	}
	return Sorted(all), nil
}

// Sorted gives the matchers by name, then value, then operator.
func Sorted(ms Matchers) Matchers {
	sorted := slices.Clone(ms)
	slices.SortStableFunc(sorted, func(a, b *labels.Matcher) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		if c := strings.Compare(a.Value, b.Value); c != 0 {
			return c
		}
		return int(a.Type) - int(b.Type)
	})
	return sorted
}

// Of makes matchers of the API's messages.
func Of(messages []*controlv1.Matcher) (Matchers, error) {
	var all Matchers
	for _, message := range messages {
		how, ok := map[controlv1.MatchOperator]labels.MatchType{
			controlv1.MatchOperator_MATCH_OPERATOR_EQUAL:      labels.MatchEqual,
			controlv1.MatchOperator_MATCH_OPERATOR_NOT_EQUAL:  labels.MatchNotEqual,
			controlv1.MatchOperator_MATCH_OPERATOR_REGEXP:     labels.MatchRegexp,
			controlv1.MatchOperator_MATCH_OPERATOR_NOT_REGEXP: labels.MatchNotRegexp,
		}[message.GetOperator()]
		if !ok || message.GetName() == "" {
			return nil, fault.New(fault.Invalid, "read matcher of label %q: want a label and one of =, !=, =~, !~", message.GetName())
		}
		m, err := labels.NewMatcher(how, message.GetName(), message.GetValue())
		if err != nil {
			return nil, fault.New(fault.Invalid, "read matcher of label %q: %w", message.GetName(), err)
		}
		all = append(all, m)
	}
	return all, nil
}

// Messages is the reverse of [Of].
func Messages(ms Matchers) []*controlv1.Matcher {
	all := make([]*controlv1.Matcher, len(ms))
	for i, m := range ms {
		all[i] = &controlv1.Matcher{Name: m.Name, Value: m.Value, Operator: map[labels.MatchType]controlv1.MatchOperator{
			labels.MatchEqual:     controlv1.MatchOperator_MATCH_OPERATOR_EQUAL,
			labels.MatchNotEqual:  controlv1.MatchOperator_MATCH_OPERATOR_NOT_EQUAL,
			labels.MatchRegexp:    controlv1.MatchOperator_MATCH_OPERATOR_REGEXP,
			labels.MatchNotRegexp: controlv1.MatchOperator_MATCH_OPERATOR_NOT_REGEXP,
		}[m.Type]}
	}
	return all
}

// Equal makes the matcher that wants a label to have a value.
func Equal(name, value string) *labels.Matcher {
	return &labels.Matcher{Type: labels.MatchEqual, Name: name, Value: value}
}

// IsExpression tells whether a text is a valid regular expression.
func IsExpression(text string) bool { _, err := regexp.Compile(text); return err == nil }
