package alertmanager

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/alerting/notify/notifytest"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	notifytest.Run(t, notifytest.Suite{
		New: func(t *testing.T, url string, deps notify.Deps) notify.Notifier {
			n, err := New(Config{URLs: []notify.Secret{notify.Secret(url)}, Resend: time.Minute}, deps)
			if err != nil {
				t.Fatal(err)
			}
			return n
		},
		Key: func(t *testing.T, r notifytest.Request) string {
			decoder := json.NewDecoder(bytes.NewReader(r.Body))
			decoder.DisallowUnknownFields()
			var alerts []posted
			if err := decoder.Decode(&alerts); err != nil || len(alerts) != 1 {
				t.Fatalf("%v: %s", err, r.Body)
			}
			return alerts[0].Labels["incident"]
		},
	})
}

// startAlertmanager starts a real one and gives its URL and what kills it.
func startAlertmanager(t *testing.T) (url string, kill func()) {
	t.Helper()
	program := testkit.Require(t, "prometheus-alertmanager")
	dir := t.TempDir()
	config := filepath.Join(dir, "am.yml")
	if err := os.WriteFile(config, []byte("route: {receiver: none}\nreceivers: [{name: none}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	cmd := exec.Command(program, "--config.file="+config, "--storage.path="+dir, "--web.listen-address="+address, "--cluster.listen-address=")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	t.Cleanup(kill)
	url = "http://" + address
	testkit.Eventually(t, "Alertmanager to be ready", func() bool {
		response, err := http.Get(url + "/-/ready")
		if err != nil {
			return false
		}
		_ = response.Body.Close()
		http.DefaultClient.CloseIdleConnections()
		return response.StatusCode == 200
	})
	return url, kill
}

// active gives how many alerts fire there.
func active(t *testing.T, url string) int {
	t.Helper()
	defer http.DefaultClient.CloseIdleConnections()
	response, err := http.Get(url + "/api/v2/alerts")
	if err != nil {
		return -1
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	var alerts []struct {
		Labels map[string]string `json:"labels"`
	}
	if err != nil || json.Unmarshal(body, &alerts) != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return len(alerts)
}

func TestARealClusterIsToldAllOfIt(t *testing.T) {
	first, killFirst := startAlertmanager(t)
	second, _ := startAlertmanager(t)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	memory := &notifytest.Memory{}
	n, err := New(Config{URLs: []notify.Secret{notify.Secret(first), notify.Secret(second)}, Resend: 50 * time.Millisecond}, notify.Deps{
		HTTPClient: client, Log: slog.New(slog.DiscardHandler), Memory: memory, Receiver: "am",
	})
	if err != nil {
		t.Fatal(err)
	}
	firing := notifytest.Firing()
	if err := n.Notify(t.Context(), firing); err != nil {
		t.Fatal(err)
	}
	if a, b := active(t, first), active(t, second); a != 1 || b != 1 {
		t.Errorf("%d and %d alerts fire, want 1 and 1", a, b)
	}
	killFirst()
	if err := n.Notify(t.Context(), firing); err != nil {
		t.Errorf("one of two is away: %v", err)
	}

	// Another that knows nothing, as after a restart, is told again.
	third, _ := startAlertmanager(t)
	again, err := New(Config{URLs: []notify.Secret{notify.Secret(third)}, Resend: 50 * time.Millisecond}, n.(*notifier).deps)
	if err != nil {
		t.Fatal(err)
	}
	group := life.NewGroup(context.Background())
	group.Go("resend", again.(notify.Runner).Run)
	testkit.Eventually(t, "what fires to be told again", func() bool { return active(t, third) == 1 })

	if err := again.Notify(t.Context(), notifytest.Resolved()); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the alert to be over", func() bool { return active(t, third) == 0 })
	group.Stop()
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if all, _ := memory.All(t.Context()); len(all) != 0 {
		t.Errorf("after the end it still knows %v", fmt.Sprint(all))
	}
}
