package conf

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDiffer(t *testing.T) {
	const before = `
node: n1
labels: {team: vision, tier: "1"}
receivers:
- name: a
  slack: {url: "https://a", channel: x, retries: 5, to: [p, q]}
spool: {max_bytes: 10}
`
	for name, tc := range map[string]struct {
		after string
		want  []string
	}{
		"the same": {before, nil},
		"moved, sorted and commented": {`
# a comment
spool: # another
  max_bytes: 10

labels: {tier: "1", team: vision}
node: n1
receivers:
- slack: # and another
    channel: 'x'
    to:
    - p
    - q
    url: https://a
    retries: 5
  name: a
`, nil},
		"an alias": {`
node: &name n1
labels: {team: vision, tier: "1"}
receivers: [{name: a, slack: {to: [p, q], retries: 5, url: "https://a", channel: x}}]
spool: {max_bytes: 10}
`, nil},
		"another setting":           {`{node: n1, labels: {team: vision, tier: "1"}, receivers: [{name: a, slack: {url: "https://b", channel: x, retries: 5, to: [p, q]}}], spool: {max_bytes: 10}}`, []string{"receivers"}},
		"a number that is a text":   {`{node: n1, labels: {team: vision, tier: "1"}, receivers: [{name: a, slack: {url: "https://a", channel: x, retries: "5", to: [p, q]}}], spool: {max_bytes: 10}}`, []string{"receivers"}},
		"another order in a list":   {`{node: n1, labels: {team: vision, tier: "1"}, receivers: [{name: a, slack: {url: "https://a", channel: x, retries: 5, to: [q, p]}}], spool: {max_bytes: 10}}`, []string{"receivers"}},
		"another key":               {`{node: n1, labels: {team: vision, tier: "1"}, receivers: [{name: a, slack: {url: "https://a", chanel: x, retries: 5, to: [p, q]}}], spool: {max_bytes: 10}}`, []string{"receivers"}},
		"no settings":               {`{node: n1, labels: {team: vision, tier: "1"}, receivers: [{name: a}], spool: {max_bytes: 10}}`, []string{"receivers"}},
		"another label and no more": {`{node: n2, labels: {team: text, tier: "1"}}`, []string{"node", "labels", "receivers"}},
	} {
		a, b := defaults(), defaults()
		if err := Decode("a.yaml", []byte(before), &a); err != nil {
			t.Fatal(err)
		}
		if err := Decode("b.yaml", []byte(tc.after), &b); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tc.want, Differ(a, b)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(tc.want, Differ(b, a)); diff != "" {
			t.Errorf("%s, the other way (-want +got):\n%s", name, diff)
		}
	}
}

// TestDifferOfPointersAndMaps: what is not there differs from what is.
func TestDifferOfPointersAndMaps(t *testing.T) {
	type parts struct {
		Limit *int           `yaml:"limit"`
		Kinds map[string]Raw `yaml:"kinds"`
		Other []string       `yaml:"other"`
		Own   func()         `yaml:"-"`
	}
	read := func(text string) (p parts) {
		if err := Decode("a.yaml", []byte(text), &p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	full := read("{limit: 5, kinds: {a: {x: 1}, b: {}}, other: [p]}")
	full.Own = func() {}
	if got := Differ(full, read("kinds: {b: {}, a: {x: 1}} # swapped\nother: [p]\nlimit: 5")); got != nil {
		t.Errorf("the same differs in %q", got)
	}
	if diff := cmp.Diff([]string{"limit", "kinds", "other"}, Differ(full, read("{limit: 6, kinds: {a: {x: 1}, c: {}}, other: [p, q]}"))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"limit", "kinds", "other"}, Differ(parts{}, full)); diff != "" {
		t.Errorf("nothing (-want +got):\n%s", diff)
	}
}
