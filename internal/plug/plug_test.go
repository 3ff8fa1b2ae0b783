package plug

import (
	"fmt"
	"testing"

	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/fault"
)

type greetConfig struct {
	Word string `yaml:"word"`
}

func greetings() Catalog[fmt.Stringer, string] {
	return Catalog[fmt.Stringer, string]{
		Of("greet", greetConfig{Word: "hello"}, func(c greetConfig, name string) (fmt.Stringer, error) {
			return text(c.Word + " " + name), nil
		}),
	}
}

type text string

func (t text) String() string { return string(t) }

func raw(t *testing.T, yaml string) conf.Raw {
	t.Helper()
	var file struct {
		Part conf.Raw `yaml:"part"`
	}
	if err := conf.Decode("f.yaml", []byte(yaml), &file); err != nil {
		t.Fatal(err)
	}
	return file.Part
}

func TestBuild(t *testing.T) {
	for yaml, want := range map[string]string{
		"":                 "hello you",
		"part: {word: hi}": "hi you",
	} {
		got, err := greetings().Build("greet", raw(t, yaml), "you")
		if err != nil || got.String() != want {
			t.Errorf("Build(%q) = %v, %v, want %s", yaml, got, err, want)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	for name, yaml := range map[string]string{"greet": "part: {wrod: hi}", "shout": ""} {
		if _, err := greetings().Build(name, raw(t, yaml), "you"); !fault.Is(err, fault.Invalid) {
			t.Errorf("Build(%q, %q) = %v, want an invalid fault", name, yaml, err)
		}
	}
}

func TestDefaultsAreFresh(t *testing.T) {
	kind := greetings()[0]
	kind.Defaults().(*greetConfig).Word = "changed"
	if got := kind.Defaults().(*greetConfig).Word; got != "hello" {
		t.Errorf("default word is now %q", got)
	}
}
