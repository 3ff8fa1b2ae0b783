package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

const (
	nonfinite  = commonv1.FailureKind_FAILURE_KIND_NONFINITE
	divergence = commonv1.FailureKind_FAILURE_KIND_DIVERGENCE
	gpuFault   = commonv1.FailureKind_FAILURE_KIND_GPU_FAULT
	network    = commonv1.FailureKind_FAILURE_KIND_NETWORK
	limit      = commonv1.FailureKind_FAILURE_KIND_LIMIT
	userError  = commonv1.FailureKind_FAILURE_KIND_USER_ERROR
	crash      = commonv1.FailureKind_FAILURE_KIND_CRASH
)

func TestEveryKindHasAPolicyThatWorks(t *testing.T) {
	c := Defaults()
	if err := c.Error(); err != nil {
		t.Error(err)
	}
	for number := range commonv1.FailureKind_name {
		if _, ok := c.Kinds[Name(commonv1.FailureKind(number))]; !ok {
			t.Errorf("%s has no policy", commonv1.FailureKind(number))
		}
	}
	if len(c.Kinds) != len(commonv1.FailureKind_name) {
		t.Errorf("%d policies for %d kinds", len(c.Kinds), len(commonv1.FailureKind_name))
	}
}

func TestBackoffGrowsToItsCapAndJitters(t *testing.T) {
	b := quick()
	for n, want := range []time.Duration{250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second} {
		if got := b.Wait(n, 0); got != want {
			t.Errorf("wait %d is %s, want %s", n, got, want)
		}
		if got := b.Wait(n, 1); got != want/2 {
			t.Errorf("wait %d with full jitter is %s, want %s", n, got, want/2)
		}
	}
	for _, n := range []int{8, 100, 1 << 20} {
		if got := b.Wait(n, 0); got != time.Minute {
			t.Errorf("wait %d is %s, want the cap", n, got)
		}
	}
}

// at is an ending at a known step, crashed one at an unknown step.
func at(step int64, why string) Ending {
	return Ending{Failure: nonfinite, Explanation: why, Step: step, StepKnown: true}
}

func crashed(lasted time.Duration) Ending {
	return Ending{Failure: crash, Explanation: "exit code 1", Lasted: lasted}
}

func said(why string) Ending { return Ending{Explanation: why, Said: true} }

// raised is an exception of the program.
func raised(fingerprint string, step int64) Ending {
	return Ending{Failure: crash, Explanation: "E: " + fingerprint, Fingerprint: fingerprint, Step: step, StepKnown: true}
}

func TestWhatFollowsAnEnding(t *testing.T) {
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		endings []Ending
		waits   []time.Duration // of the restarts, without jitter
		why     string          // part of why there is no further one; empty: there is
	}{
		"the same failure at the same step": {
			[]Ending{at(39, "NaN"), at(39, "NaN"), at(39, "NaN")}, []time.Duration{250 * ms, 500 * ms}, "same failure 3 times in a row: NaN"},
		"the same failure further on each time": {
			[]Ending{at(10, "killed"), at(20, "killed"), at(30, "killed"), at(40, "killed")},
			[]time.Duration{250 * ms, 250 * ms, 250 * ms, 250 * ms}, ""},
		"different failures at the same step": {
			[]Ending{at(5, "a"), at(5, "b"), at(5, "a"), at(5, "b")}, []time.Duration{250 * ms, 500 * ms, 1000 * ms, 2000 * ms}, ""},
		"no steps known": {
			[]Ending{crashed(0), crashed(0), crashed(0), crashed(0), crashed(0)},
			[]time.Duration{250 * ms, 500 * ms, 1000 * ms, 2000 * ms}, "gave up after 4 restarts"},
		"no steps known, but it lasted": {
			[]Ending{crashed(0), crashed(0), crashed(time.Hour)}, []time.Duration{250 * ms, 500 * ms, 250 * ms}, ""},
		"the same failure before any step": {
			[]Ending{said("no agent"), said("no agent"), said("no agent")}, []time.Duration{250 * ms, 500 * ms}, "same failure 3 times"},
		"the same exception at the same step": {
			[]Ending{raised("a", 7), raised("a", 7)}, []time.Duration{250 * ms}, "the program itself is at fault"},
		"the same exception further on": {
			[]Ending{raised("a", 7), raised("a", 8), raised("a", 9)}, []time.Duration{250 * ms, 250 * ms, 250 * ms}, ""},
		"two exceptions in turn": {
			[]Ending{raised("a", 7), raised("b", 7), raised("a", 7)}, []time.Duration{250 * ms, 500 * ms, 1000 * ms}, ""},
		"a limit": {[]Ending{{Failure: limit, Explanation: "24 h"}}, nil, "limit is not tried again: 24 h"},
	} {
		t.Run(name, func(t *testing.T) {
			config := Defaults()
			config.MaxRestarts = 4
			var h History
			var last Decision
			var waits []time.Duration
			for _, e := range c.endings {
				if last = h.Next(config, e, 0); last.Restart {
					waits = append(waits, last.Wait)
				}
			}
			if diff := cmp.Diff(c.waits, waits); diff != "" {
				t.Errorf("waits, -want +got:\n%s", diff)
			}
			if last.Restart != (c.why == "") || !strings.Contains(last.Why, c.why) {
				t.Errorf("decision is %+v, want %q", last, c.why)
			}
		})
	}
}

func TestEachKindHasItsOwnAnswer(t *testing.T) {
	config := Defaults()
	next := func(endings ...Ending) (d Decision) {
		var h History
		for _, e := range endings {
			d = h.Next(config, e, 0)
		}
		return d
	}
	lost := Ending{Failure: divergence, Explanation: "it diverged", Step: 100, StepKnown: true}
	again := lost
	again.Step = 200
	for name, c := range map[string]struct {
		got  Decision
		want Decision // without Why
	}{
		"NaN once": {next(at(5, "NaN")), Decision{Restart: true, Wait: 250 * time.Millisecond, Failure: nonfinite, From: Latest, LearningRateScale: 1}},
		"NaN again at the same place leaves the batch out": {next(at(5, "NaN"), at(5, "NaN")),
			Decision{Restart: true, Wait: 500 * time.Millisecond, Failure: nonfinite, From: Latest, LearningRateScale: 1, SkipBatches: 1}},
		"divergence goes back and slows down": {next(lost),
			Decision{Restart: true, Wait: 250 * time.Millisecond, Failure: divergence, From: Earlier, LearningRateScale: 0.5, Page: true}},
		"and more so the next time, also after progress": {next(lost, again),
			Decision{Restart: true, Wait: 250 * time.Millisecond, Failure: divergence, From: Earlier, LearningRateScale: 0.25, Page: true}},
		"the slower rate stays with other failures": {next(lost, Ending{Failure: network, Explanation: "n", Step: 300, StepKnown: true}),
			Decision{Restart: true, Wait: 5 * time.Second, Failure: network, From: Latest, LearningRateScale: 0.5}},
		"a GPU that fails twice without progress is left": {next(
			Ending{Failure: gpuFault, Explanation: "a"}, Ending{Failure: gpuFault, Explanation: "b"}, Ending{Failure: gpuFault, Explanation: "c"}),
			Decision{Failure: gpuFault, From: Latest, LearningRateScale: 1, ExcludeNode: true, Page: true}},
		"a user's error calls a person": {next(raised("a", 1), raised("a", 1)),
			Decision{Failure: userError, From: Latest, LearningRateScale: 1, Page: true}},
	} {
		t.Run(name, func(t *testing.T) {
			c.got.Why = ""
			if diff := cmp.Diff(c.want, c.got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestPoliciesAreReadFromAFile(t *testing.T) {
	c, err := Decode("policy.yaml", []byte(`
same_failures: 4
kinds:
  gpu_oom: {retries: 7, backoff: {base: 1s, factor: 3, cap: 9s}, from: earlier, page: always}
`))
	if err != nil {
		t.Fatal(err)
	}
	got := c.Of(commonv1.FailureKind_FAILURE_KIND_GPU_OOM)
	want := Policy{Retries: 7, Backoff: Backoff{Base: time.Second, Factor: 3, Cap: 9 * time.Second}, From: Earlier, Page: Always, LearningRateScale: 1}
	if diff := cmp.Diff(want, got); diff != "" || c.SameFailures != 4 || c.SameTracebacks != 2 {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff(Defaults().Of(limit), c.Of(limit)); diff != "" {
		t.Errorf("a kind that the file leaves out changed:\n%s", diff)
	}
	for text, want := range map[string]string{
		"kinds: {gpu_omm: {retries: 1}}":             "no such kind",
		"kinds: {crash: {retries: -1, from: later}}": "kinds.crash.from",
		"kinds: {crash: {page: sometimes}}":          "never, give_up or always",
		"kinds: {crash: {learning_rate_scale: -1}}":  "over 0",
		"kinds: {crash: {retry: 1}}":                 "unknown key",
		"same_failures: 0":                           "at least 1",
	} {
		if _, err := Decode("policy.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
