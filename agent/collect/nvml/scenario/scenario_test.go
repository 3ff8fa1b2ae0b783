package scenario

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/fault"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]Spec{
		"":                                    {},
		"driver":                              {},
		"simulated=8xH100":                    {Count: 8, Model: "H100"},
		"simulated=1xb200":                    {Count: 1, Model: "B200"},
		"simulated=4xA100,script=/a,b=c.yaml": {Count: 4, Model: "A100", Script: "/a,b=c.yaml"},
	} {
		got, err := Parse(text)
		if err != nil || got != want {
			t.Errorf("Parse(%q) = %+v, %v", text, got, err)
		}
		if again, err := Parse(got.String()); err != nil || again != want {
			t.Errorf("%q comes back as %+v, %v", got.String(), again, err)
		}
	}
	for text, says := range map[string]string{
		"8xH100":                     "neither driver nor",
		"simulated=H100":             "neither driver nor",
		"simulated=0xH100":           "not between 1 and 64",
		"simulated=99xH100":          "not between 1 and 64",
		"simulated=8xK80":            "there are A100, H100, H200, B200",
		"simulated=8xH100,seed=1":    "script=PATH",
		"simulated=8xH100,script=":   "script=PATH",
		"simulated=8xH100,,script=a": "script=PATH",
	} {
		if _, err := Parse(text); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("Parse(%q): %v, want it to say %q", text, err, says)
		}
	}
}

func decode(t *testing.T, text string) Script {
	t.Helper()
	var s Script
	if err := conf.Decode("script", []byte(text), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMistakesAreNamed(t *testing.T) {
	for text, says := range map[string]string{
		"events: []":                                      "version: is 0",
		"version: 1\nrepeat: -1s":                         "repeat: is -1s",
		"version: 1\nevents: [{at: 1s}]":                  "nothing happens",
		"version: 1\nevents: [{at: -1s, xid: 1}]":         "events[0].at",
		"version: 1\nevents: [{xid: -1}]":                 "events[0].xid",
		"version: 1\nevents: [{gpus: [-1], hang: true}]":  "events[0].gpus",
		"version: 1\nevents: [{throttle: wind}]":          "there are hardware_thermal",
		"version: 1\nevents: [{nvlink: {down: -1}}]":      "below 0",
		"version: 1\nevents: [{ecc: {corrected: -1}}]":    "not a whole number",
		"version: 1\nevents: [{xit: 79}]":                 `did you mean "xid"`,
		"version: 1\nevents: [{at: 1s, hang: {for: 1s}}]": "not true or false",
	} {
		var s Script
		if err := conf.Decode("script", []byte(text), &s); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s\n%v does not say %q", text, err, says)
		}
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "script.yaml")
	if err := os.WriteFile(path, []byte("version: 1\nevents: [{at: 1s, gpus: [2], xid: 79}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := (Spec{Count: 3, Model: "H100", Script: path}).Load(); err != nil || len(s.Events) != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := (Spec{Count: 2, Model: "H100", Script: path}).Load(); err == nil || !strings.Contains(err.Error(), "no GPU 2") {
		t.Errorf("a GPU that is not there: %v", err)
	}
	if _, err := (Spec{Count: 2, Model: "H100", Script: path + "x"}).Load(); !fault.Is(err, fault.NotFound) {
		t.Errorf("no script: %v", err)
	}
	if s, err := (Spec{Count: 2, Model: "H100"}).Load(); err != nil || len(s.Events) != 0 {
		t.Errorf("without a script: %+v, %v", s, err)
	}
}

func TestTimeline(t *testing.T) {
	s := decode(t, "version: 1\nevents: [{at: 10s, for: 4s, gpus: [1], hang: true}, {at: 20s, lost: true}]")
	burst, lost := s.Events[0], s.Events[1]
	if burst.Hits(0) || !burst.Hits(1) || !lost.Hits(0) {
		t.Error("an event hits the wrong GPU")
	}
	for _, tc := range []struct {
		at     time.Duration
		active bool
		until  time.Duration
		share  float64
	}{
		{9 * time.Second, false, 0, 0},
		{10 * time.Second, true, 4 * time.Second, 0},
		{11 * time.Second, true, 3 * time.Second, 0.25},
		{14 * time.Second, false, 0, 1},
		{time.Hour, false, 0, 1},
	} {
		if got := s.Active(burst, tc.at); got != tc.active {
			t.Errorf("at %v: active %v", tc.at, got)
		}
		if tc.active && s.Until(burst, tc.at) != tc.until {
			t.Errorf("at %v: until %v, want %v", tc.at, s.Until(burst, tc.at), tc.until)
		}
		if got := s.Share(burst, tc.at); got != tc.share {
			t.Errorf("at %v: share %v, want %v", tc.at, got, tc.share)
		}
	}
	if !s.Active(lost, time.Hour) || s.Until(lost, time.Hour) != 0 || s.Share(lost, time.Hour) != 1 {
		t.Error("an event without an end ends")
	}
}

func TestRepeat(t *testing.T) {
	s := decode(t, "version: 1\nrepeat: 30s\nevents: [{at: 10s, for: 10s, ecc: {corrected: 8}}, {at: 25s, lost: true}, {at: 40s, xid: 1}]")
	burst, lost := s.Events[0], s.Events[1]
	if !s.Active(burst, 45*time.Second) || s.Active(burst, 55*time.Second) || s.Until(burst, 45*time.Second) != 5*time.Second {
		t.Error("the second round is not as the first")
	}
	if got := s.Share(burst, 45*time.Second); got != 1.5 {
		t.Errorf("share %v, want 1.5", got)
	}
	if got := s.Share(s.Events[2], time.Hour); got != 0 {
		t.Errorf("an event behind the end of the round has share %v", got)
	}
	if got := s.Until(lost, 28*time.Second); got != 2*time.Second {
		t.Errorf("until %v, want the end of the round", got)
	}
	if s.Active(lost, 31*time.Second) {
		t.Error("an event without an end outlives its round")
	}
}

func TestNextXIDs(t *testing.T) {
	once := decode(t, "version: 1\nevents: [{at: 20s, xid: 31}, {at: 10s, xid: 79}, {at: 15s, lost: true}, {at: 20s, xid: 32}]")
	again := decode(t, "version: 1\nrepeat: 30s\nevents: [{at: 20s, xid: 31}, {at: 10s, xid: 79}, {at: 40s, xid: 1}]")
	type next struct {
		XID int32
		At  time.Duration
	}
	follow := func(s Script, n int) (all []next) {
		after := time.Duration(-1)
		for range n {
			xids, at := s.NextXIDs(after)
			for _, e := range xids {
				all = append(all, next{e.XID, at})
				after = at
			}
		}
		return all
	}
	if diff := cmp.Diff([]next{{79, 10 * time.Second}, {31, 20 * time.Second}, {32, 20 * time.Second}}, follow(once, 5)); diff != "" {
		t.Error(diff)
	}
	want := []next{{79, 10 * time.Second}, {31, 20 * time.Second}, {79, 40 * time.Second}, {31, 50 * time.Second}, {79, 70 * time.Second}}
	if diff := cmp.Diff(want, follow(again, 5)); diff != "" {
		t.Error(diff)
	}
}

// The script that the format's page shows is one.
func TestThePagesScript(t *testing.T) {
	page, err := os.ReadFile("../../../../docs/formats/gpu-script.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```yaml\n")
	text, _, _ := strings.Cut(rest, "```")
	path := filepath.Join(t.TempDir(), "faults.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	script, err := Spec{Count: 8, Model: "H100", Script: path}.Load()
	if err != nil {
		t.Fatal(err)
	}
	if len(script.Events) != 5 || script.Repeat != 10*time.Minute || !script.Events[4].Hang {
		t.Errorf("the script is %+v", script)
	}
}
