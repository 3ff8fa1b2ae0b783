package chaos

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

const binVariable = "VIGIL_CHAOS_BIN"

// Settings of a longer or repeated play, for instance
// "go test ./cmd/e2e/chaos -args -runs 300 -seed 7" or "-args -seed 7 -only 12".
type settings struct {
	runs int
	seed uint64
	only int
	keep string
}

func flags() *settings {
	s := &settings{}
	flag.IntVar(&s.runs, "runs", 20, "how many runs")
	flag.Uint64Var(&s.seed, "seed", 1, "decides what happens to them")
	flag.IntVar(&s.only, "only", -1, "play this run of the seed alone")
	flag.StringVar(&s.keep, "keep", "", "directory that the logs of runs that failed are copied to")
	return s
}

var play = flags()

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(withPrograms(m.Run))
}

// withPrograms builds the programs, as they are now.
func withPrograms(run func() int) int {
	dir, err := os.MkdirTemp("", "vigil-chaos-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	build := exec.Command("go", "build", "-o", dir+"/", "../../vigil-agent", "../../vigil-trainer")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the programs: %v\n%s", err, out)
		return 1
	}
	if err := os.Setenv(binVariable, dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return run()
}

// undisturbed gives the final parameters of a run that nobody disturbs.
func undisturbed(t *testing.T) string {
	t.Helper()
	out, err := exec.Command(program("vigil-trainer"), "train", "--steps", fmt.Sprint(steps), "--checkpoint-every", "0", "--evaluate-every", "0").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	match := regexp.MustCompile(`parameters sha256 ([0-9a-f]{64})`).FindSubmatch(out)
	if match == nil {
		t.Fatalf("there is no digest in %s", out)
	}
	return string(match[1])
}

// tally is what came of all runs.
type tally struct {
	runs, ended, attempts, resumptions, failed int
	refused, copies                            int
	blows                                      map[kind]int
}

func TestChaos(t *testing.T) {
	want := undisturbed(t)
	total := tally{blows: map[kind]int{}}
	began := time.Now()
	for run := range play.runs {
		if play.only >= 0 && run != play.only {
			continue
		}
		one(t, draw(play.seed, run), want, &total)
	}
	var blows []string
	for _, k := range append(kinds(), outages()...) {
		blows = append(blows, fmt.Sprintf("%s %d", k, total.blows[k]))
	}
	// Printed, not logged: a run of many is watched.
	fmt.Printf("chaos: seed %d: %d runs in %s, %d ended, %d failed; %d attempts, %d resumptions, %d checkpoints that the trainer itself refused, %d copies in the second store\n",
		play.seed, total.runs, time.Since(began).Round(time.Second), total.ended, total.failed, total.attempts, total.resumptions, total.refused, total.copies)
	fmt.Printf("chaos: blows that fell: %s\n", strings.Join(blows, ", "))
}

// one plays one run and judges it.
func one(t *testing.T, p plan, want string, total *tally) {
	t.Helper()
	w := build(t, p)
	defer w.close()
	ended := w.play()
	log, err := os.ReadFile(w.log)
	if err != nil {
		t.Fatal(err)
	}
	s := read(string(log))
	total.runs++
	total.attempts += s.attempts
	total.resumptions += len(s.resumptions)
	total.refused += len(s.refused)
	for k, n := range w.counts {
		total.blows[k] += n
	}
	var wrong []string
	if ended {
		total.ended++
	} else {
		wrong = append(wrong, "training did not end")
	}
	if ended && s.digest != want {
		wrong = append(wrong, fmt.Sprintf("the final parameters are %.12s, undisturbed %.12s", s.digest, want))
	}
	wrong = append(wrong, w.bad(s)...)
	wrong = append(wrong, w.leftBehind()...)
	wrong = append(wrong, w.uncopied()...)
	total.copies += w.copies
	if len(wrong) == 0 {
		return
	}
	total.failed++
	t.Errorf("%s\n  %s\n%s", p, strings.Join(wrong, "\n  "), tail(log, 6000))
	w.keep()
}

// leftBehind gives what the supervisor should have removed.
func (w *world) leftBehind() (all []string) {
	if w.boss.over() {
		paths, _ := filepath.Glob(filepath.Join(w.dir, "vigil-trainer-*"))
		for _, path := range paths {
			all = append(all, "left behind: "+filepath.Base(path))
		}
	}
	return all
}

// keep copies the logs of a failed run to where they are wanted.
func (w *world) keep() {
	if play.keep == "" {
		return
	}
	for _, name := range []string{"run.log", "agent.log"} {
		text, _ := os.ReadFile(filepath.Join(w.dir, name))
		path := filepath.Join(play.keep, fmt.Sprintf("seed%d-run%d-%s", w.plan.seed, w.plan.run, name))
		if err := os.WriteFile(path, text, 0o600); err != nil {
			w.t.Log(err)
		}
	}
}

func tail(text []byte, n int) string { return string(text[max(0, len(text)-n):]) }

func TestASeedGivesOnePlan(t *testing.T) {
	seen := map[kind]bool{}
	for run := range 200 {
		one, two := draw(3, run), draw(3, run)
		if !slices.Equal(one.blows, two.blows) {
			t.Fatalf("run %d has two plans: %s; %s", run, one, two)
		}
		for _, b := range one.blows {
			seen[b.kind] = true
		}
	}
	if all := len(kinds()) + len(outages()); len(seen) != all {
		t.Errorf("only %d of %d kinds are drawn", len(seen), all)
	}
}
