package e2e

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/vigil-ml/vigil/internal/site"
)

// faultsVariable has providers misbehave for as long as docs/alerting-receivers.md
// tells of; `make test-provider-faults` sets it.
const faultsVariable = "VIGIL_PROVIDER_FAULTS"

const (
	// besideEvery is the time between two alerts of the receiver beside.
	besideEvery = 100 * time.Millisecond
	// besideBefore is for how long it is measured before anything fails.
	besideBefore = 3 * time.Second
	// dueWithin is how late a try may be.
	dueWithin = time.Second
)

// misbehaviour is how a provider fails, and what is documented of it.
type misbehaviour struct {
	name    string
	kind    string        // of receiver; empty: webhook
	lasts   time.Duration // from the first request on; then it works
	answer  func(http.ResponseWriter, *http.Request)
	arrives time.Duration // documented, at most; 0: it is given up
	standIn time.Duration // documented: when the fallback is told; negative: never
	refuses bool
}

func misbehaviours(whole bool) []misbehaviour {
	status := func(code int, header func() (name, value string)) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			if header != nil {
				w.Header().Set(header())
			}
			w.WriteHeader(code)
		}
	}
	in := func(seconds int) func() (string, string) {
		return func() (string, string) { return "Retry-After", fmt.Sprint(seconds) }
	}
	at := func(wait time.Duration) func() (string, string) {
		return func() (string, string) {
			return "Retry-After", time.Now().Add(wait).UTC().Format(http.TimeFormat)
		}
	}
	const s = time.Second
	all := []misbehaviour{
		{name: "429, Retry-After: 3", kind: "slack", lasts: 3*s - s/2, answer: status(http.StatusTooManyRequests, in(3)), arrives: 3 * s, standIn: -1},
		{name: "500 once", lasts: s / 10, answer: status(http.StatusInternalServerError, nil), arrives: s, standIn: -1},
		{name: "refuses (404)", lasts: time.Hour, answer: status(http.StatusNotFound, nil), refuses: true},
	}
	if !whole {
		return append(all,
			misbehaviour{name: "500 for 2 s", lasts: 2 * s, answer: status(http.StatusInternalServerError, nil), arrives: 3 * s, standIn: -1},
			misbehaviour{name: "hangs for 2 s", kind: "pagerduty", lasts: 2 * s, answer: hang, arrives: 3 * s, standIn: -1},
			misbehaviour{name: "resets for 2 s", kind: "slack", lasts: 2 * s, answer: reset, arrives: 3 * s, standIn: -1},
			misbehaviour{name: "garbage for 2 s", lasts: 2 * s, answer: garbage, arrives: 3 * s, standIn: -1})
	}
	return append(all,
		misbehaviour{name: "429, a date 20 s away", kind: "pagerduty", lasts: 19 * s, answer: status(http.StatusTooManyRequests, at(20*s)), arrives: 20 * s, standIn: -1},
		misbehaviour{name: "500 for 40 s", kind: "pagerduty", lasts: 40 * s, answer: status(http.StatusInternalServerError, nil), arrives: 45 * s, standIn: 15 * s},
		misbehaviour{name: "hangs for 2 min", kind: "slack", lasts: 2 * time.Minute, answer: hang, arrives: 137 * s, standIn: 65 * s},
		misbehaviour{name: "resets for 10 s", kind: "pagerduty", lasts: 10 * s, answer: reset, arrives: 15 * s, standIn: -1},
		misbehaviour{name: "garbage for 10 s", lasts: 10 * s, answer: garbage, arrives: 15 * s, standIn: -1})
}

// hang answers nothing until whoever asked goes away.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// reset ends the connection with a reset.
func reset(w http.ResponseWriter, _ *http.Request) {
	if conn := hijack(w); conn != nil {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = conn.Close()
	}
}

// garbage answers what is no HTTP.
func garbage(w http.ResponseWriter, _ *http.Request) {
	if conn := hijack(w); conn != nil {
		_, _ = conn.Write([]byte("\x00\xff220 this is not what you think it is\r\n\r\n"))
		_ = conn.Close()
	}
}

func hijack(w http.ResponseWriter) net.Conn {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return nil
	}
	return conn
}

// sick is a provider that misbehaves, and notes when it was asked.
type sick struct {
	misbehaviour
	*httptest.Server
	mu     sync.Mutex
	began  []time.Time // of each request
	ended  []time.Time // of each request that it failed: when it had
	took   time.Time   // when it took one
	posted time.Time
}

func newSick(t *testing.T, m misbehaviour) *sick {
	p := &sick{misbehaviour: m}
	p.Server = httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(p.Close)
	return p
}

func (p *sick) serve(w http.ResponseWriter, r *http.Request) {
	at := time.Now()
	_, _ = io.Copy(io.Discard, r.Body)
	p.mu.Lock()
	p.began = append(p.began, at)
	over := at.Sub(p.began[0]) >= p.lasts
	if over && p.took.IsZero() {
		p.took = at
	}
	p.mu.Unlock()
	if over {
		return
	}
	p.answer(w, r)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = append(p.ended, time.Now())
}

// done tells whether the provider has taken what it is to be told.
func (p *sick) done() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.took.IsZero() || (p.refuses && len(p.ended) > 0)
}

// healthy is a webhook that notes when each alert came, by its label n or fault.
type healthyHook struct {
	*httptest.Server
	mu   sync.Mutex
	came map[string]time.Time
	more int // came twice

	trouble int // was about another receiver
}

func newHealthyHook(t *testing.T) *healthyHook {
	h := &healthyHook{came: map[string]time.Time{}}
	h.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		at := time.Now()
		var m struct{ CommonLabels map[string]string }
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
			t.Errorf("webhook got what is no JSON: %v", err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		key := m.CommonLabels["fault"] + m.CommonLabels["n"]
		switch _, twice := h.came[key]; {
		case key == "": // that a receiver fails, or works again
			h.trouble++
		case twice:
			h.more++
		default:
			h.came[key] = at
		}
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *healthyHook) at(key string) (time.Time, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at, ok := h.came[key]
	return at, ok
}

// TestProviderFaults has real providers, on real sockets, misbehave in every way
// that docs/alerting-receivers.md tells of, all at once, while one receiver is
// well. Each further try must come when the control plane said that it would,
// and what is documented must hold.
func TestProviderFaults(t *testing.T) {
	whole := os.Getenv(faultsVariable) != ""
	beside, standIn := newHealthyHook(t), newHealthyHook(t)
	var providers []*sick
	tryTimeout := "2s"
	if whole {
		tryTimeout = "10s" // the default
	}
	config := "alerting:\n  try_timeout: " + tryTimeout + "\n  storm: {after: 0}\n  receivers:\n" +
		"  - {name: beside, webhook: {url: '" + beside.URL + "'}}\n  - {name: standby, webhook: {url: '" + standIn.URL + "'}}\n"
	routes := "  route:\n    receiver: beside\n    group_by: [fault, n]\n    routes:\n"
	for n, m := range misbehaviours(whole) {
		p := newSick(t, m)
		providers = append(providers, p)
		p.kind = cmp.Or(p.kind, "webhook")
		key := map[string]string{"pagerduty": ", routing_key: 0123456789abcdef0123456789abcdef"}[p.kind]
		config += fmt.Sprintf("  - {name: r%d, %s: {url: '%s'%s}, fallback: standby}\n", n, p.kind, p.URL, key)
		routes += fmt.Sprintf("    - {receiver: r%d, matchers: ['fault=\"r%d\"']}\n", n, n)
	}
	s, err := site.Plan(t.TempDir()+"/site", os.Getenv(binVariable))
	fatal(t, err)
	defer func() { fatal(t, s.Close()) }()
	cp, err := s.ControlPlane(t.Context(), config+routes)
	fatal(t, err)
	defer func() { fatal(t, cp.Stop()) }()

	before := tellBeside(t, s, beside, "before", func() bool { return false }, besideBefore)
	for n, p := range providers {
		p.posted = time.Now()
		postFault(t, s, fmt.Sprintf(`{"alertname": "Fault", "fault": "r%d"}`, n))
	}
	done := func() bool {
		return !slices.ContainsFunc(providers, func(p *sick) bool { return !p.done() })
	}
	during := tellBeside(t, s, beside, "during", done, 4*limit)
	if !done() {
		t.Fatal("not every provider took what it was to be told")
	}
	time.Sleep(besideEvery) // for what the last try leaves in the log
	waits := announced(t, cp)

	table := &strings.Builder{}
	w := tabwriter.NewWriter(table, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "provider\tkind\tdocumented\tplanned\tmeasured\ttries\tlatest try\tfallback documented\tfallback measured\tbeside p50/p99")
	for n, p := range providers {
		name := fmt.Sprintf("r%d", n)
		r := p.result(t, name, waits[name], standIn)
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", p.name, p.kind, r, quantiles(during))
		r.judge(t, p, whole)
	}
	_, _ = fmt.Fprintf(w, "none (before)\t\t\t\t\t\t\t\t\t%s\n", quantiles(before))
	_ = w.Flush()
	t.Logf("a receiver beside got %d alerts meanwhile, %d of them again, and %d words of receivers that fail or work again\n%s",
		len(during), beside.more, beside.trouble, table)
	if beside.more > 0 || median(during) > 10*median(before) {
		t.Errorf("the receiver beside was told %d times twice; half came within %v, and %v before", beside.more, median(during), median(before))
	}
}

// tellBeside sends alerts to the receiver beside until done, and gives how long
// each took to arrive.
func tellBeside(t *testing.T, s *site.Site, beside *healthyHook, name string, done func() bool, most time.Duration) []time.Duration {
	t.Helper()
	var sent []time.Time
	for end := time.Now().Add(most); time.Now().Before(end) && !done(); time.Sleep(besideEvery) {
		sent = append(sent, time.Now())
		postFault(t, s, fmt.Sprintf(`{"alertname": "Beside", "n": "%s%d"}`, name, len(sent)-1))
	}
	var took []time.Duration
	for n, at := range sent {
		for end := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
			if came, ok := beside.at(fmt.Sprint(name, n)); ok {
				took = append(took, came.Sub(at))
				break
			}
			if time.Now().After(end) {
				t.Fatalf("the receiver beside was not told of %s%d", name, n)
			}
		}
	}
	slices.Sort(took)
	return took
}

func median(sorted []time.Duration) time.Duration { return sorted[len(sorted)/2] }

func quantiles(sorted []time.Duration) string {
	return fmt.Sprintf("%.0f/%.0f ms", millis(median(sorted)), millis(sorted[len(sorted)*99/100]))
}

func postFault(t *testing.T, s *site.Site, labels string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.API+"/api/v2/alerts",
		bytes.NewReader([]byte(`[{"labels": `+labels+`}]`)))
	fatal(t, err)
	request.Header.Set("Content-Type", "application/json")
	fatal(t, s.Authorize(request))
	response, err := http.DefaultClient.Do(request)
	fatal(t, err)
	text, _ := io.ReadAll(response.Body)
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("post %s: %s %s", labels, response.Status, text)
	}
}

// announced gives, by receiver, the waits that the control plane said it would
// wait before each further try.
func announced(t *testing.T, cp *site.Process) map[string][]time.Duration {
	t.Helper()
	text, err := os.ReadFile(cp.Log)
	fatal(t, err)
	line := regexp.MustCompile(`will be tried again" .*receiver=(\S+) .* wait=(\S+) `)
	all := map[string][]time.Duration{}
	for _, found := range line.FindAllSubmatch(text, -1) {
		wait, err := time.ParseDuration(string(found[2]))
		fatal(t, err)
		all[string(found[1])] = append(all[string(found[1])], wait)
	}
	return all
}

// result is what became of one provider's notification.
type result struct {
	documented, planned, measured, latest time.Duration
	tries                                 int
	early                                 time.Duration // of the earliest try
	fallbackDocumented, fallback          time.Duration // negative: not told
}

// result compares when tries came with when they were to come.
func (p *sick) result(t *testing.T, name string, waits []time.Duration, standIn *healthyHook) result {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	r := result{documented: p.arrives, tries: len(p.began), fallbackDocumented: p.standIn, fallback: -1}
	if at, told := standIn.at(name); told {
		r.fallback = at.Sub(p.posted)
	}
	if p.refuses {
		return r
	}
	if len(waits) != len(p.ended) || len(p.began) != len(p.ended)+1 {
		t.Fatalf("%s: %d requests, of which %d failed, and %d waits announced", p.name, len(p.began), len(p.ended), len(waits))
	}
	for n, wait := range waits {
		late := p.began[n+1].Sub(p.ended[n].Add(wait))
		r.latest, r.early = max(r.latest, late), max(r.early, -late)
		r.planned = p.ended[n].Add(wait).Sub(p.posted)
	}
	r.measured = p.took.Sub(p.posted)
	return r
}

// String is the row of a table.
func (r result) String() string {
	show := func(d time.Duration) string {
		if d < 0 {
			return "never"
		}
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	if r.documented == 0 {
		return fmt.Sprintf("never: dead letter\t\tnever\t%d\t\t%s\t%s", r.tries, show(r.fallbackDocumented), show(r.fallback))
	}
	return fmt.Sprintf("%s\t%s\t%s\t%d\t+%.0f ms\t%s\t%s", show(r.documented), show(r.planned), show(r.measured), r.tries,
		millis(r.latest), show(r.fallbackDocumented), show(r.fallback))
}

// judge holds what is documented. That nothing comes before its time holds on
// any machine; that it comes within a second of it is asked in the whole form,
// of a machine that has the time.
func (r result) judge(t *testing.T, p *sick, whole bool) {
	t.Helper()
	const blink = 200 * time.Millisecond // by which a provider may see late that it was given up
	if p.refuses && r.tries != 1 {
		t.Errorf("%s: tried %d times, want once", p.name, r.tries)
	}
	if r.early > blink {
		t.Errorf("%s: a try came %v before it was to", p.name, r.early)
	}
	if (r.fallback >= 0) != (r.fallbackDocumented >= 0) {
		t.Errorf("%s: the fallback was told after %v, documented is %v (negative is never)", p.name, r.fallback, r.fallbackDocumented)
	}
	if !whole {
		return
	}
	if r.latest > dueWithin {
		t.Errorf("%s: a try came %v late; is the machine busy?", p.name, r.latest)
	}
	for what, pair := range map[string][2]time.Duration{"it arrived": {r.measured, r.documented}, "the fallback was told": {r.fallback, r.fallbackDocumented}} {
		if measured, documented := pair[0], pair[1]; documented >= 0 && (measured < documented*3/4 || measured > documented+dueWithin) {
			t.Errorf("%s: %s after %v, documented is %v", p.name, what, measured, documented)
		}
	}
}
