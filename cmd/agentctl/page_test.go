package main

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestTable(t *testing.T) {
	p := newPage(24, true, false)
	p.table(1, []column{{head: "A"}, {head: "N", right: true}, {head: "W", wide: true}, {head: "TEXT"}}, [][]cell{
		{{"é", good}, {text: "10"}, {text: "hidden"}, {text: "a sentence that is too long"}},
		{{text: "xyz"}, {text: "9"}, {text: "hidden"}, {text: "-"}},
	})
	want := strings.Join([]string{
		" \x1b[2mA\x1b[0m     \x1b[2mN\x1b[0m  \x1b[2mTEXT\x1b[0m",
		" \x1b[32mé\x1b[0m    10  a sentence th…",
		" xyz   9  -",
		"",
	}, "\n")
	if diff := cmp.Diff(want, string(p.bytes())); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestWrap(t *testing.T) {
	text := "The gradient of encoder.w became NaN at step 812, before the update."
	lines := wrap(text, 30)
	if strings.Join(lines, " ") != text {
		t.Errorf("words were lost: %q", lines)
	}
	for _, line := range lines {
		if utf8.RuneCountInString(line) > 30 {
			t.Errorf("%q is wider than 30 columns", line)
		}
	}
	for _, width := range []int{-4, 0, 19, 200} {
		if got := wrap(text, width); len(got) != 1 {
			t.Errorf("width %d made %d lines, want 1", width, len(got))
		}
	}
	if got := wrap("", 30); len(got) != 1 || got[0] != "" {
		t.Errorf("nothing became %q", got)
	}
}

func TestColorNeedsATerminalThatWantsIt(t *testing.T) {
	for _, tc := range []struct {
		name    string
		width   int
		noColor bool
		env     map[string]string
		want    bool
	}{
		{"terminal", 100, false, nil, true},
		{"file", 0, false, nil, false},
		{"--no-color", 100, true, nil, false},
		{"NO_COLOR", 100, false, map[string]string{"NO_COLOR": "1"}, false},
		{"dumb", 100, false, map[string]string{"TERM": "dumb"}, false},
	} {
		a := &app{width: tc.width, noColor: tc.noColor, getenv: func(name string) string { return tc.env[name] }}
		if a.color() != tc.want {
			t.Errorf("%s: color %v, want %v", tc.name, a.color(), tc.want)
		}
	}
}
