package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/internal/pki"
	"github.com/vigil-ml/vigil/internal/protocol"
	"github.com/vigil-ml/vigil/internal/site"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const (
	// findingsVariable is how many runs break at once; `make storm-alerting` sets
	// it.
	findingsVariable = "VIGIL_STORM_FINDINGS"
	// stormLasts is in how much time they break.
	stormLasts = 5 * time.Second
	// probes is how many frames measure what ingest takes.
	probes = 200
)

// rawAgent is an agent that only sends events: the storm is faster than the
// trainers of one machine could be.
type rawAgent struct {
	t        *testing.T
	stream   grpc.BidiStreamingClient[agentv1.ConnectRequest, agentv1.ConnectResponse]
	epoch    uint64
	sequence uint64
	mu       sync.Mutex
	acked    map[agentv1.FrameClass]uint64 // the last sequence of each class
}

func connectRaw(t *testing.T, s *site.Site, node string) *rawAgent {
	t.Helper()
	member, err := pki.JoinHere(t.Context(), s.Agents, node)
	fatal(t, err)
	conn, err := grpc.NewClient(s.Agents, grpc.WithTransportCredentials(credentials.NewTLS(member.TLS())))
	fatal(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	a := &rawAgent{t: t, epoch: uint64(time.Now().Unix()), acked: map[agentv1.FrameClass]uint64{}}
	a.stream, err = agentv1.NewAgentServiceClient(conn).Connect(t.Context())
	fatal(t, err)
	fatal(t, a.stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{
		Hello: &agentv1.Hello{Revision: protocol.Revision, Node: node},
	}}))
	go func() {
		for {
			in, err := a.stream.Recv()
			if err != nil {
				return
			}
			if ack := in.GetAck(); ack != nil {
				a.mu.Lock()
				a.acked[ack.GetClass()] = ack.GetPosition().GetSequence()
				a.mu.Unlock()
			}
		}
	}()
	return a
}

// send sends one event of a run in a frame of its own.
func (a *rawAgent) send(run string, event *commonv1.Event) {
	a.t.Helper()
	a.sequence++
	event.EventId, event.Time = fmt.Sprintf("%s-%d", run, a.sequence), timestamppb.Now()
	err := a.stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Frame{Frame: &agentv1.Frame{
		Class: agentv1.FrameClass_FRAME_CLASS_EVENTS, Position: &agentv1.Position{Epoch: a.epoch, Sequence: a.sequence},
		Payload: &agentv1.Frame_Events{Events: &agentv1.EventBatch{RunId: run, Events: []*commonv1.Event{event}}},
	}}})
	fatal(a.t, err)
}

// sendEach sends events at a pace until there were so many or stop is called,
// and says when it has.
func (a *rawAgent) sendEach(every time.Duration, most int, event func(n int) (run string, event *commonv1.Event)) (done chan struct{}, stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for n, began := 0, time.Now(); n < most; n++ {
			select {
			case <-ended:
				return
			case <-time.After(time.Duration(n)*every - time.Since(began)):
			}
			run, e := event(n)
			a.send(run, e)
		}
	}()
	return done, sync.OnceFunc(func() { close(ended) })
}

// durable is how many frames are acknowledged.
func (a *rawAgent) durable() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.acked[agentv1.FrameClass_FRAME_CLASS_EVENTS]
}

// flushed waits until all that was sent is durable.
func (a *rawAgent) flushed() {
	a.t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		acked := a.durable()
		if acked >= a.sequence {
			return
		}
		if time.Now().After(end) {
			a.t.Fatalf("%d of %d frames are acknowledged", acked, a.sequence)
		}
	}
}

// rate measures how many frames a second ingest takes from the agent.
func (a *rawAgent) rate() float64 {
	began := time.Now()
	for range probes {
		a.send("bystander", &commonv1.Event{Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: int64(a.sequence), Loss: new(1.0)}}})
	}
	a.flushed()
	return probes / time.Since(began).Seconds()
}

// board is a webhook that keeps the names of what it is told, and the text of
// roll-ups.
type board struct {
	*httptest.Server
	mu      sync.Mutex
	single  int
	rollUps []string
	first   time.Time // when the first roll-up came
}

func newBoard(t *testing.T) *board {
	b := &board{}
	b.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		var m struct {
			CommonLabels, CommonAnnotations map[string]string
		}
		if err := json.Unmarshal(text, &m); err != nil {
			t.Errorf("webhook got %s", text)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if m.CommonLabels["alertname"] == "storm" {
			if b.first.IsZero() {
				b.first = time.Now()
			}
			b.rollUps = append(b.rollUps, m.CommonAnnotations["summary"])
		} else {
			b.single++
		}
	}))
	t.Cleanup(b.Close)
	return b
}

// sum gives how many problems were told by themselves, and how many together.
func (b *board) sum() (single, together int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, text := range b.rollUps {
		word, _, _ := strings.Cut(text, " ")
		n, _ := strconv.Atoi(word)
		together += n
	}
	return b.single, together
}

// TestAlertingStorm has the gradients of very many runs turn NaN within seconds:
// people get twenty messages and a few roll-ups that account for all the rest,
// and the agents of other runs are served as before.
func TestAlertingStorm(t *testing.T) {
	findings := 1000
	if text := os.Getenv(findingsVariable); text != "" {
		var err error
		findings, err = strconv.Atoi(text)
		fatal(t, err)
	}
	b := newBoard(t)
	s, err := site.Plan(t.TempDir()+"/site", os.Getenv(binVariable))
	fatal(t, err)
	defer func() { fatal(t, s.Close()) }()
	cp, err := s.ControlPlane(t.Context(), "alerting: {receivers: [{name: ops, webhook: {url: '"+b.URL+"'}}]}\n")
	fatal(t, err)
	defer func() { fatal(t, cp.Stop()) }()
	bystander, struck := connectRaw(t, s, "calm"), connectRaw(t, s, "struck")
	before := bystander.rate()
	// What a node gets beside one that sends as much and of which nothing is found.
	usual, stop := struck.sendEach(stormLasts/time.Duration(findings), findings, func(n int) (string, *commonv1.Event) {
		return "calm", &commonv1.Event{Body: &commonv1.Event_Step{Step: &commonv1.StepReport{Step: int64(n), Loss: new(1.0)}}}
	})
	beside := bystander.rate()
	stop()
	<-usual
	struck.flushed()

	memory, sent, began := memoryOf(t, cp), struck.sequence, time.Now()
	storm, _ := struck.sendEach(stormLasts/time.Duration(findings), findings, func(n int) (string, *commonv1.Event) {
		return fmt.Sprintf("run-%d", n), &commonv1.Event{Body: &commonv1.Event_NonFinite{NonFinite: &commonv1.NonFinite{
			Step: 10, Tensor: "w", Quantity: commonv1.Quantity_QUANTITY_GRADIENT, NanCount: 1, TensorSize: 64,
		}}}
	})
	during := bystander.rate()
	all := (probes + float64(struck.durable()-sent)) / time.Since(began).Seconds()
	<-storm
	struck.flushed()
	durable := time.Since(began)
	peak := memory
	single, together := 0, 0
	for end := time.Now().Add(2 * limit); single+together < findings && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		single, together = b.sum()
		peak = max(peak, memoryOf(t, cp))
	}
	t.Logf("%d findings in %.1f s, all durable after %.1f s; %d told alone, %d in %d roll-ups, the first seen after %.1f s, the last after %.1f s",
		findings, stormLasts.Seconds(), durable.Seconds(), single, together, len(b.rollUps), b.first.Sub(began).Seconds(), time.Since(began).Seconds())
	t.Logf("ingest of another node: %.0f frames/s alone, %.0f beside one that sends as much of which nothing is found, %.0f beside the storm, when ingest takes %.0f in all",
		before, beside, during, all)
	t.Logf("memory of the control plane: %d MiB before, %d MiB at most", memory>>20, peak>>20)
	t.Logf("a roll-up: %.300s", strings.Join(b.rollUps, "\n"))
	if single > 20+1 || single+together != findings {
		t.Errorf("%d alone and %d together, want 20 and the rest of %d", single, together, findings)
	}
	if during < beside/10 {
		t.Errorf("ingest took %.0f frames/s of another node during the storm and %.0f beside as much of which nothing is found", during, beside)
	}
	if grown := (peak - memory) / int64(findings); grown > 64<<10 {
		t.Errorf("the storm costs %d bytes of memory a finding", grown)
	}
	incidents, err := controlv1.NewIncidentServiceClient(s.Conn()).ListIncidents(t.Context(), &controlv1.ListIncidentsRequest{Limit: 10})
	if err != nil || len(incidents.GetIncidents()) != 10 {
		t.Errorf("operators are not served: %v", err)
	}
}

func memoryOf(t *testing.T, p *site.Process) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.PID()))
	fatal(t, err)
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	fatal(t, err)
	return pages * int64(os.Getpagesize())
}
