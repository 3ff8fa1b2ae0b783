package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vigil-ml/vigil/internal/site"
)

// killsVariable is how often the control plane is killed; `make chaos-alerting`
// sets it.
const killsVariable = "VIGIL_CHAOS_KILLS"

// moment is when the control plane is killed.
type moment int

const (
	accepted moment = iota // the alert is accepted and nobody is told yet
	sending                // a provider has the request and has not answered; it forgets it
	answered               // a provider has answered, and that is not recorded yet
	anywhen                // at any time after the alert was posted, answered or not
	moments
)

func (m moment) String() string {
	return [...]string{"after the alert was accepted", "during a send", "after a provider's answer", "at any time"}[m]
}

// provider is webhook and PagerDuty in one, which counts what it took.
type provider struct {
	*httptest.Server
	mu      sync.Mutex
	drop    bool // it takes a request and never answers
	took    map[string]int
	arrived chan struct{}
}

func newProvider(t *testing.T) *provider {
	p := &provider{took: map[string]int{}, arrived: make(chan struct{}, 1024)}
	p.Server = httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(p.Close)
	return p
}

func (p *provider) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // it was cut off: nobody was told
	}
	p.mu.Lock()
	drop := p.drop
	if !drop {
		p.took[keyOf(r, body)]++
	}
	p.mu.Unlock()
	p.arrived <- struct{}{}
	if drop {
		<-r.Context().Done()
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

// keyOf is what a provider knows a notification by: PagerDuty's dedup_key, or
// the webhook's idempotency key.
func keyOf(r *http.Request, body []byte) string {
	if !strings.HasSuffix(r.URL.Path, "/v2/enqueue") {
		return "webhook " + r.Header.Get("Idempotency-Key")
	}
	var event struct {
		Action string `json:"event_action"`
		Key    string `json:"dedup_key"`
	}
	if err := json.Unmarshal(body, &event); err != nil || event.Action != "trigger" {
		return "no trigger: " + string(body)
	}
	return "pagerduty " + event.Key
}

func (p *provider) dropping(drop bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop = drop
}

// counts gives how many notifications each of the two took, and how many of
// them more than once.
func (p *provider) counts() (webhook, pagerduty, repeated int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, n := range p.took {
		switch {
		case strings.HasPrefix(key, "webhook "):
			webhook++
		case strings.HasPrefix(key, "pagerduty "):
			pagerduty++
		}
		repeated += n - 1
	}
	return webhook, pagerduty, repeated
}

// TestAlertingSurvivesKills kills the control plane with SIGKILL around the
// delivery of one alert after the other, and counts what two providers got:
// each alert, and each under one key however often it was sent.
func TestAlertingSurvivesKills(t *testing.T) {
	kills := 10
	if text := os.Getenv(killsVariable); text != "" {
		var err error
		if kills, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	p := newProvider(t)
	s, err := site.Plan(t.TempDir()+"/site", os.Getenv(binVariable))
	fatal(t, err)
	defer func() { fatal(t, s.Close()) }()
	config := "alerting:\n  storm: {after: 0}\n  receivers:\n  - {name: hook, webhook: {url: '" + p.URL + "'}}\n" +
		"  - {name: pager, pagerduty: {routing_key: 0123456789abcdef0123456789abcdef, url: '" + p.URL + "'}}\n"
	cp, err := s.ControlPlane(t.Context(), config)
	fatal(t, err)
	random := rand.New(rand.NewPCG(1, 2))
	at := map[moment]int{}
	for n := range kills {
		when := moment(n) % moments
		at[when]++
		p.dropping(when == sending)
		for len(p.arrived) > 0 {
			<-p.arrived
		}
		taken := make(chan bool, 1)
		go func() { taken <- postChaos(s, n) }()
		awaitMoment(t, p, taken, when, random)
		cp.Kill()
		p.dropping(false)
		cp, err = s.ControlPlane(t.Context(), config)
		fatal(t, err)
		if !<-taken && !postChaos(s, n) { // whoever got no answer sends again, as Prometheus does
			t.Fatalf("alert %d is not taken", n)
		}
	}
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if webhook, pagerduty, _ := p.counts(); webhook >= kills && pagerduty >= kills {
			break
		}
	}
	fatal(t, cp.Stop())
	webhook, pagerduty, repeated := p.counts()
	for when := range moments {
		t.Logf("killed %d times %s", at[when], when)
	}
	t.Logf("%d alerts; the webhook was told of %d, PagerDuty of %d; %d repeats, each under the key of the first", kills, webhook, pagerduty, repeated)
	if webhook != kills || pagerduty != kills {
		t.Errorf("want each of %d alerts told once to both", kills)
	}
	if repeated > 2*kills {
		t.Errorf("%d repeats for %d kills: more than a kill can leave unclear", repeated, kills)
	}
}

// awaitMoment returns when the control plane is to be killed.
func awaitMoment(t *testing.T, p *provider, taken chan bool, when moment, random *rand.Rand) {
	t.Helper()
	guard := time.After(limit)
	switch when {
	case accepted:
		select {
		case ok := <-taken:
			taken <- ok
		case <-guard:
			t.Fatal("the alert is not taken")
		}
	case sending, answered:
		select {
		case <-p.arrived:
		case <-guard:
			t.Fatal("nobody is told")
		}
		if when == answered {
			time.Sleep(time.Duration(random.IntN(3000)) * time.Microsecond)
		}
	case anywhen:
		time.Sleep(time.Duration(random.IntN(40_000)) * time.Microsecond)
	}
}

// postChaos posts the n-th alert; false when nobody knows whether it was taken.
func postChaos(s *site.Site, n int) bool {
	body := fmt.Sprintf(`[{"labels": {"alertname": "Chaos", "i": "%d"}, "annotations": {"summary": "It is chaos."}}]`, n)
	request, err := http.NewRequest(http.MethodPost, "http://"+s.API+"/api/v2/alerts", bytes.NewReader([]byte(body)))
	if err != nil {
		return false
	}
	request.Header.Set("Content-Type", "application/json")
	request.Close = true
	if s.Authorize(request) != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	_, _ = io.Copy(io.Discard, response.Body)
	return response.Body.Close() == nil && response.StatusCode == http.StatusOK
}
