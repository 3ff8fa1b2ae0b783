package supervise

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vigil-ml/vigil/trainer/trainertest"
)

// TestWhatACommandPrintsIsReported: a program that knows nothing of Vigil is
// watched by what it prints, on either output, in every attempt.
func TestWhatACommandPrintsIsReported(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	s := supervise(t, func(c *Config) { c.Socket = agent.Socket }, "sh", "-c", `
		echo "step 0: train loss 10.9210, val loss 10.9209"
		echo "iter 0: loss 10.9118, time 27488.56ms, mfu -100.00%"
		echo "iter 40: loss nan, time 48.67ms, mfu 10.07%" >&2
		[ "$VIGIL_ATTEMPT" = 1 ] || exit 3`)
	s.wait()
	var told []string
	for _, event := range agent.Events() {
		if step := event.GetStep(); step != nil {
			told = append(told, fmt.Sprintf("attempt %d step %d loss %v", event.GetAttempt(), step.GetStep(), step.GetLoss()))
		}
		if e := event.GetEvaluation(); e != nil {
			told = append(told, fmt.Sprintf("attempt %d evaluation %v", event.GetAttempt(), e.GetLoss()))
		}
	}
	for attempt := range 2 {
		for _, want := range []string{"step 1 loss 10.9118", "step 41 loss NaN", "evaluation 10.9209"} {
			want = fmt.Sprintf("attempt %d %s", attempt, want)
			if n := strings.Count(strings.Join(told, "\n")+"\n", want+"\n"); n != 1 {
				t.Errorf("%q is reported %d times in:\n%s", want, n, strings.Join(told, "\n"))
			}
		}
	}
}

// TestACommandThatReportsItselfIsNotReadOut: what it prints would be the same
// again.
func TestACommandThatReportsItselfIsNotReadOut(t *testing.T) {
	agent := trainertest.New(t)
	agent.Start(t)
	s := supervise(t, func(c *Config) { c.Socket = agent.Socket }, "sh", "-c", `
		printf '7\n' > "$VIGIL_EXIT_FILE.step"
		echo "iter 40: loss 1.5, time 48.67ms, mfu 10.07%"`)
	s.wait()
	for _, event := range agent.Events() {
		if event.GetStep() != nil {
			t.Errorf("reported %v", event)
		}
	}
}
