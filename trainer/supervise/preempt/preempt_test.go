package preempt

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// metadata is a cloud's metadata service: what it answers by path.
type metadata struct {
	mu      sync.Mutex
	answers map[string]string // by method and path; what is not there is 404
	tokens  int               // given
	token   string            // that is good now
}

func (m *metadata) set(key, answer string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.answers[key] = answer
}

func (m *metadata) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.Method == http.MethodPut && r.URL.Path == "/latest/api/token" {
		if r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds") == "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		m.tokens++
		m.token = "token-" + string(rune('a'+m.tokens))
		_, _ = w.Write([]byte(m.token))
		return
	}
	switch {
	case r.URL.Path[:7] == "/latest" && (m.token == "" || r.Header.Get("X-aws-ec2-metadata-token") != m.token):
		w.WriteHeader(http.StatusUnauthorized)
	case r.URL.Path[:5] == "/comp" && r.Header.Get("Metadata-Flavor") != "Google",
		r.URL.Path[:5] == "/meta" && r.Header.Get("Metadata") != "true":
		w.WriteHeader(http.StatusForbidden)
	case m.answers[r.URL.RequestURI()] == "":
		w.WriteHeader(http.StatusNotFound)
	default:
		_, _ = w.Write([]byte(m.answers[r.URL.RequestURI()]))
	}
}

func serve(t *testing.T, answers map[string]string) (*metadata, string) {
	t.Helper()
	m := &metadata{answers: answers}
	server := httptest.NewServer(m)
	t.Cleanup(server.Close)
	return m, server.URL
}

const (
	awsAction    = "/latest/meta-data/spot/instance-action"
	awsRebalance = "/latest/meta-data/events/recommendations/rebalance"
	gcpPreempted = "/computeMetadata/v1/instance/preempted"
	gcpEvent     = "/computeMetadata/v1/instance/maintenance-event"
	azureEvents  = "/metadata/scheduledevents?api-version=2020-07-01"
)

func TestClouds(t *testing.T) {
	deadline := time.Date(2026, 9, 18, 8, 22, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		source  string
		answers map[string]string
		found   bool
		want    Notice // Deadline zero: not compared
	}{
		"aws quiet":       {"aws", map[string]string{}, false, Notice{}},
		"aws terminates":  {"aws", map[string]string{awsAction: `{"action": "terminate", "time": "2026-09-18T08:22:00Z"}`}, true, Notice{What: "the spot instance will terminate", Deadline: deadline}},
		"aws recommends":  {"aws", map[string]string{awsRebalance: `{"noticeTime": "2026-09-18T08:22:00Z"}`}, true, Notice{What: "the spot instance is at elevated risk", Warning: true}},
		"gcp quiet":       {"gcp", map[string]string{gcpPreempted: "FALSE\n", gcpEvent: "NONE"}, false, Notice{}},
		"gcp preempts":    {"gcp", map[string]string{gcpPreempted: "TRUE"}, true, Notice{What: "the machine was preempted"}},
		"gcp maintains":   {"gcp", map[string]string{gcpPreempted: "FALSE", gcpEvent: "TERMINATE_ON_HOST_MAINTENANCE"}, true, Notice{What: "host maintenance will stop the machine", Warning: true}},
		"azure quiet":     {"azure", map[string]string{azureEvents: `{"DocumentIncarnation": 1, "Events": []}`}, false, Notice{}},
		"azure preempts":  {"azure", map[string]string{azureEvents: `{"Events": [{"EventType": "Freeze"}, {"EventType": "Preempt", "NotBefore": "Fri, 18 Sep 2026 08:22:00 GMT"}]}`}, true, Notice{What: "scheduled event Preempt", Deadline: deadline}},
		"azure redeploys": {"azure", map[string]string{azureEvents: `{"Events": [{"EventType": "Redeploy", "NotBefore": ""}]}`}, true, Notice{What: "scheduled event Redeploy", Warning: true}},
	} {
		t.Run(name, func(t *testing.T) {
			_, base := serve(t, c.answers)
			s, err := New(c.source, base)
			if err != nil {
				t.Fatal(err)
			}
			got, found, err := s.Look(t.Context())
			if err != nil || found != c.found {
				t.Fatalf("Look = %+v, %v, %v", got, found, err)
			}
			if found && (got.What != c.want.What || got.Warning != c.want.Warning || (!c.want.Deadline.IsZero() && !got.Deadline.Equal(c.want.Deadline))) {
				t.Errorf("notice is %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestATokenThatRanOutIsMadeAnew(t *testing.T) {
	m, base := serve(t, map[string]string{})
	s := newAWS(base)
	for range 3 {
		if _, _, err := s.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	m.mu.Lock()
	given := m.tokens
	m.token = "another"
	m.mu.Unlock()
	if _, _, err := s.Look(t.Context()); err != nil || given != 1 || m.tokens != 2 {
		t.Errorf("%v; %d tokens before and %d after one ran out", err, given, m.tokens)
	}
}

func TestAServiceThatIsNotThere(t *testing.T) {
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }))
	broken.Close()
	odd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }))
	defer odd.Close()
	for _, base := range []string{broken.URL, odd.URL} {
		for _, name := range []string{"aws", "gcp", "azure"} {
			s, err := New(name, base)
			if err != nil {
				t.Fatal(err)
			}
			notice, found, err := s.Look(t.Context())
			if found || (err == nil && base == broken.URL) || (err != nil && !fault.Is(err, fault.Unavailable)) {
				t.Errorf("%s at %s: %+v, %v, %v", name, base, notice, found, err)
			}
		}
	}
	if _, err := New("oracle", ""); !fault.Is(err, fault.Invalid) {
		t.Errorf("an unknown cloud: %v", err)
	}
}

func TestWatchTellsAWarningAndANoticeOnce(t *testing.T) {
	m, base := serve(t, map[string]string{awsRebalance: `{"noticeTime": "2026-09-18T08:22:00Z"}`})
	s, err := New("aws", base)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var told []string
	group := life.NewGroup(t.Context())
	group.Go("watch", func(ctx context.Context) error {
		return Watch(ctx, testkit.Logger(t), []Source{s}, time.Millisecond, func(n Notice) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, n.Source+": "+n.What)
		})
	})
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(told)
	}
	testkit.Eventually(t, "the warning", func() bool { return count() == 1 })
	m.set(awsAction, `{"action": "stop", "time": "2026-09-18T08:22:00Z"}`)
	if err := group.Wait(); err != nil { // ends by itself: all is said
		t.Error(err)
	}
	if want := []string{"aws: the spot instance is at elevated risk", "aws: the spot instance will stop"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}

func TestChoose(t *testing.T) {
	s := time.Second
	for name, c := range map[string]struct {
		left        time.Duration
		m           Measures
		machineGoes bool
		hasLast     bool
		want        Plan
	}{
		"there is time": {30 * s, Measures{10 * s, 60 * s}, false, true, SaveInFull},
		"the machine goes, and sealing takes long": {30 * s, Measures{10 * s, 60 * s}, true, true, ConfirmLast},
		"the machine goes, and there is time":      {90 * s, Measures{10 * s, 60 * s}, true, true, SaveInFull},
		"it would be close":                        {11 * s, Measures{10 * s, 0}, false, true, ConfirmLast},
		"there is nothing to confirm":              {1 * s, Measures{10 * s, 0}, false, false, SaveInFull},
		"nothing is known":                         {1 * s, Measures{}, true, true, SaveInFull},
	} {
		if got := Choose(c.left, c.m, c.machineGoes, c.hasLast); got != c.want {
			t.Errorf("%s: plan %d, want %d", name, got, c.want)
		}
	}
}
