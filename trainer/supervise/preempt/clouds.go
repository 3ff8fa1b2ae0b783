package preempt

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Where the metadata services are on a machine of theirs. All three are plain
// HTTP on the link, and never reached over a proxy.
const (
	awsBase   = "http://169.254.169.254"
	gcpBase   = "http://metadata.google.internal"
	azureBase = "http://169.254.169.254"

	maxAnswer = 1 << 20
)

// service is what the three have in common.
type service struct {
	name   string
	base   string
	client *http.Client
}

func newService(name, base, usual string) service {
	return service{
		name: name, base: strings.TrimRight(cmp.Or(base, usual), "/"),
		client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
	}
}

// Name is the source's name.
func (s service) Name() string { return s.name }

// ask makes a request and gives the answer's body; found is false for 404.
func (s service) ask(ctx context.Context, method, path string, header map[string]string) (body []byte, status int, err error) {
	req, err := http.NewRequestWithContext(ctx, method, s.base+path, nil)
	if err != nil {
		return nil, 0, unavailable(s.name, err)
	}
	for key, value := range header {
		req.Header.Set(key, value)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, 0, unavailable(s.name, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, 0, unavailable(s.name, err)
	}
	return body, resp.StatusCode, nil
}

// aws asks the instance metadata service, version 2, for the spot instance's
// action and for rebalance recommendations.
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
type aws struct {
	service
	mu    sync.Mutex
	token string
}

func newAWS(base string) *aws { return &aws{service: newService("aws", base, awsBase)} }

// Look gives the action of the spot instance.
func (a *aws) Look(ctx context.Context) (Notice, bool, error) {
	var action struct {
		Action string
		Time   time.Time
	}
	found, err := a.get(ctx, "/latest/meta-data/spot/instance-action", &action)
	if err != nil || found {
		return Notice{What: "the spot instance will " + action.Action, Deadline: action.Time}, found, err
	}
	var recommendation struct {
		NoticeTime time.Time `json:"noticeTime"`
	}
	found, err = a.get(ctx, "/latest/meta-data/events/recommendations/rebalance", &recommendation)
	return Notice{What: "the spot instance is at elevated risk", Warning: true}, found, err
}

// get reads a document; found is false when there is none. The token is made
// anew when it has run out.
func (a *aws) get(ctx context.Context, path string, into any) (found bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for range 2 {
		if a.token == "" {
			body, status, err := a.ask(ctx, http.MethodPut, "/latest/api/token", map[string]string{"X-aws-ec2-metadata-token-ttl-seconds": "21600"})
			if err != nil {
				return false, err
			}
			if status != http.StatusOK {
				return false, unavailable(a.name, fmt.Errorf("token: status %d", status))
			}
			a.token = string(body)
		}
		body, status, err := a.ask(ctx, http.MethodGet, path, map[string]string{"X-aws-ec2-metadata-token": a.token})
		switch {
		case err != nil:
			return false, err
		case status == http.StatusNotFound:
			return false, nil
		case status == http.StatusUnauthorized:
			a.token = ""
			continue
		case status != http.StatusOK:
			return false, unavailable(a.name, fmt.Errorf("status %d", status))
		}
		if err := json.Unmarshal(body, into); err != nil {
			return false, unavailable(a.name, err)
		}
		return true, nil
	}
	return false, unavailable(a.name, fmt.Errorf("the token is refused"))
}

// gcp asks whether the machine was preempted, or is about to be terminated for
// maintenance.
// https://cloud.google.com/compute/docs/instances/create-use-preemptible
type gcp struct{ service }

func newGCP(base string) *gcp { return &gcp{newService("gcp", base, gcpBase)} }

// gcpGrace is what a preempted machine has before it is stopped.
const gcpGrace = 30 * time.Second

// Look gives the machine's preemption.
func (g *gcp) Look(ctx context.Context) (Notice, bool, error) {
	header := map[string]string{"Metadata-Flavor": "Google"}
	body, status, err := g.ask(ctx, http.MethodGet, "/computeMetadata/v1/instance/preempted", header)
	if err != nil {
		return Notice{}, false, err
	}
	if status != http.StatusOK {
		return Notice{}, false, unavailable(g.name, fmt.Errorf("status %d", status))
	}
	if strings.TrimSpace(string(body)) == "TRUE" {
		return Notice{What: "the machine was preempted", Deadline: time.Now().Add(gcpGrace)}, true, nil
	}
	body, status, err = g.ask(ctx, http.MethodGet, "/computeMetadata/v1/instance/maintenance-event", header)
	if err != nil || status != http.StatusOK {
		return Notice{}, false, err
	}
	if event := strings.TrimSpace(string(body)); event == "TERMINATE_ON_HOST_MAINTENANCE" {
		// It comes an hour before: training goes on, and what there is is saved.
		return Notice{What: "host maintenance will stop the machine", Warning: true}, true, nil
	}
	return Notice{}, false, nil
}

// azure asks for scheduled events.
// https://learn.microsoft.com/azure/virtual-machines/linux/scheduled-events
type azure struct{ service }

func newAzure(base string) *azure { return &azure{newService("azure", base, azureBase)} }

// Look gives the first event that ends the machine.
func (a *azure) Look(ctx context.Context) (Notice, bool, error) {
	body, status, err := a.ask(ctx, http.MethodGet, "/metadata/scheduledevents?api-version=2020-07-01", map[string]string{"Metadata": "true"})
	if err != nil {
		return Notice{}, false, err
	}
	if status != http.StatusOK {
		return Notice{}, false, unavailable(a.name, fmt.Errorf("status %d", status))
	}
	var events struct {
		Events []struct {
			EventType string
			NotBefore string
		}
	}
	if err := json.Unmarshal(body, &events); err != nil {
		return Notice{}, false, unavailable(a.name, err)
	}
	for _, e := range events.Events {
		switch e.EventType {
		case "Preempt", "Terminate":
			// Empty once the event has begun.
			deadline, _ := time.Parse(time.RFC1123, e.NotBefore)
			return Notice{What: "scheduled event " + e.EventType, Deadline: deadline}, true, nil
		case "Reboot", "Redeploy":
			return Notice{What: "scheduled event " + e.EventType, Warning: true}, true, nil
		}
	}
	return Notice{}, false, nil
}
