package conf

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/internal/fault"
)

type spoolConfig struct {
	Dir      string        `yaml:"dir"`
	MaxBytes int64         `yaml:"max_bytes"`
	Sync     time.Duration `yaml:"sync"`
}

func (c spoolConfig) Check(report func(string, string, ...any)) {
	if c.MaxBytes <= 0 {
		report("max_bytes", "is %d; want more than 0", c.MaxBytes)
	}
}

type receiver struct {
	Name  string `yaml:"name"`
	Slack Raw    `yaml:"slack"`
}

type config struct {
	Node      string            `yaml:"node"`
	Quiet     bool              `yaml:"quiet"`
	Ratio     float64           `yaml:"ratio"`
	Labels    map[string]string `yaml:"labels"`
	Receivers []receiver        `yaml:"receivers"`
	Spool     spoolConfig       `yaml:"spool"`
}

func defaults() config {
	return config{Node: "n1", Spool: spoolConfig{MaxBytes: 10, Sync: time.Second}}
}

func TestFileOverlaysDefaults(t *testing.T) {
	got := defaults()
	err := Decode("a.yaml", []byte(`
quiet: true
ratio: 0.5
labels: {team: vision}
spool:
  sync: 250ms
`), &got)
	if err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.Quiet, want.Ratio, want.Labels = true, 0.5, map[string]string{"team": "vision"}
	want.Spool.Sync = 250 * time.Millisecond
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Raw{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestEveryMistakeIsNamedAtOnce(t *testing.T) {
	got := defaults()
	err := Decode("a.yaml", []byte(`node: n2
quiet: perhaps
spool:
  dri: /tmp
  sync: soon
  size: 3
receivers: none
`), &got)
	want := []string{
		`a.yaml:2: quiet: "perhaps" is not true or false`,
		`a.yaml:4: spool.dri: unknown key; did you mean "dir"?`,
		`a.yaml:5: spool.sync: "soon" is not a duration such as 30s, 5m or 1h30m`,
		`a.yaml:6: spool.size: unknown key; known here: dir, max_bytes, sync`,
		`a.yaml:7: receivers: want a list here`,
	}
	if diff := cmp.Diff(strings.Join(want, "\n"), err.Error()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if fault.KindOf(err) != fault.Invalid {
		t.Errorf("kind = %v", fault.KindOf(err))
	}
	if p, ok := errors.AsType[Problems](err); !ok || len(p) != 5 {
		t.Errorf("problems = %v", p)
	}
}

func TestWrongValuesAreNamedBesideUnknownKeys(t *testing.T) {
	got := defaults()
	err := Decode("a.yaml", []byte("spool:\n  max_bytes: -1\nfoo: 1\n"), &got)
	want := "a.yaml:2: spool.max_bytes: is -1; want more than 0\n" +
		"a.yaml:3: foo: unknown key; known here: labels, node, quiet, ratio, receivers, spool"
	if err == nil || err.Error() != want {
		t.Errorf("error = %v, want %s", err, want)
	}
}

func TestCheckNamesLineAndPath(t *testing.T) {
	got := defaults()
	err := Decode("a.yaml", []byte("spool:\n  max_bytes: -1\n"), &got)
	if err == nil || err.Error() != "a.yaml:2: spool.max_bytes: is -1; want more than 0" {
		t.Errorf("error = %v", err)
	}
}

func TestRawIsDecodedLaterWithItsPath(t *testing.T) {
	got := defaults()
	if err := Decode("a.yaml", []byte("receivers:\n- name: ops\n  slack: {dri: x}\n"), &got); err != nil {
		t.Fatal(err)
	}
	spool := defaults().Spool
	err := got.Receivers[0].Slack.Decode(&spool)
	want := `a.yaml:3: receivers[0].slack.dri: unknown key; did you mean "dir"?`
	if err == nil || err.Error() != want {
		t.Errorf("error = %v, want %s", err, want)
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, []byte("node: n3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := defaults()
	if err := Load(path, &got); err != nil || got.Node != "n3" {
		t.Errorf("Load = %v, node %q", err, got.Node)
	}
	if err := Load("", &got); err != nil {
		t.Errorf("Load of the defaults = %v", err)
	}
	if err := Load(path+".not", &got); !fault.Is(err, fault.NotFound) || fault.HintOf(err) == "" {
		t.Errorf("Load of a missing file = %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("node: n2\nspool: {sync: 1s}\n")
	f.Add("receivers: [{name: a, slack: {b: c}}]")
	f.Add("a: &a [*a]")
	f.Fuzz(func(t *testing.T, text string) {
		c := defaults()
		if err := Decode("f.yaml", []byte(text), &c); err != nil && fault.KindOf(err) != fault.Invalid {
			t.Errorf("error of kind %v: %v", fault.KindOf(err), err)
		}
	})
}
