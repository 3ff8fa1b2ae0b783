package inject

import (
	"strings"
	"testing"

	"github.com/vigil-ml/vigil/internal/fault"
)

func TestParseAndAsk(t *testing.T) {
	once, err := Parse("nan-grad@120, kill@7,diverge@9")
	if err != nil {
		t.Fatal(err)
	}
	always, err := Parse("hang@3,every-attempt")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		got  bool
		want bool
	}{
		{"the step", once.At(NaNGradient, 0, 120), true},
		{"another step", once.At(NaNGradient, 0, 121), false},
		{"another kind", once.At(Hang, 0, 120), false},
		{"another attempt", once.At(Kill, 1, 7), false},
		{"before it began", once.From(Diverge, 0, 8), false},
		{"after it began", once.From(Diverge, 0, 100), true},
		{"every attempt", always.At(Hang, 4, 3), true},
		{"no plan", Plan{}.At(Kill, 0, 1), false},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v, want %v", c.name, c.got, c.want)
		}
	}
	if got := once.String(); got != "nan-grad@120,kill@7,diverge@9" {
		t.Errorf("String = %q", got)
	}
}

func TestMistakesAreNamed(t *testing.T) {
	for text, want := range map[string]string{
		"nan@3":         `there is no fault "nan"; want nan-grad, nan-param, kill, hang or diverge`,
		"kill":          "want kill@STEP",
		"kill@0":        `"kill@0" names no step from 1 on`,
		"kill@x":        "want kill@STEP",
		"every-attempt": "needs a fault",
	} {
		var p Plan
		if err := p.Set(text); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("Set(%q) = %v, want %q", text, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("nan-grad@120,every-attempt")
	f.Add("kill@1,,hang@2")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(p.String())
		if err != nil || again.String() != p.String() {
			t.Errorf("Parse(%q) gives %q, which gives %q, %v", text, p, again, err)
		}
	})
}
