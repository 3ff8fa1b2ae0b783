package controlplane_test

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/vigil-ml/vigil/controlplane"
	"github.com/vigil-ml/vigil/controlplane/audit"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/conf"
	"github.com/vigil-ml/vigil/internal/life"
	"github.com/vigil-ml/vigil/internal/testkit"
)

// unpack gives the state directory that an earlier release left behind.
func unpack(t *testing.T, archive string) string {
	t.Helper()
	file, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	zipped, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for reader := tar.NewReader(zipped); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		data, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.FromSlash(header.Name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// start runs a control plane until the test ends.
func start(t *testing.T, config controlplane.Config) {
	t.Helper()
	startUntil(t, config)
}

// startUntil runs a control plane until stop is called, or the test ends.
func startUntil(t *testing.T, config controlplane.Config) (stop func()) {
	t.Helper()
	group := life.NewGroup(context.Background())
	group.Go("control plane", func(ctx context.Context) error { return controlplane.Run(ctx, config, io.Discard) })
	var once sync.Once
	stop = func() {
		once.Do(func() {
			group.Stop()
			if err := group.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// TestEarlierState starts a control plane on the state directory that one with
// version 6 of the schema left: its records are brought up to date, a frame that
// it had on its bus and not worked on takes effect, and a notification that it
// had not sent is sent.
func TestEarlierState(t *testing.T) {
	dir, told := unpack(t, "testdata/state-schema-6.tar.gz"), newReceiver(t)
	config := controlplane.Defaults()
	text := fmt.Sprintf(`state_dir: %q
api: {listen: "127.0.0.1:0"}
agents: {listen: "127.0.0.1:0"}
bus: {max_age: 876000h}
alerting: {receivers: [{name: hook, webhook: {url: %q}}]}
`, dir, told.url)
	if err := conf.Decode("earlier.yaml", []byte(text), &config); err != nil {
		t.Fatal(err)
	}
	stop := startUntil(t, config)
	testkit.Eventually(t, "the notification that waited", func() bool {
		told.mu.Lock()
		defer told.mu.Unlock()
		return told.told["inc-old"]["firing"] > 0
	})
	s, err := store.Open(t.Context(), store.Config{Path: filepath.Join(dir, "vigil.db")}, store.Deps{Log: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	step := func() (step int64) {
		err := s.View(t.Context(), func(tx *store.Tx) error {
			run, err := tx.Run("digits")
			step = run.GetStep()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return step
	}
	testkit.Eventually(t, "the frame that waited on the bus", func() bool { return step() == 3 })
	stop()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openProtected(t, store.Config{Path: filepath.Join(dir, "vigil.db")}, audit.Defaults(filepath.Join(dir, "audit")))
	err = s.View(t.Context(), func(tx *store.Tx) error {
		incident, err := tx.Incident("inc-old")
		if len(incident.GetTimeline()) == 0 || incident.GetTimeline()[0].GetText() != "it began" {
			t.Errorf("the timeline is %v", incident.GetTimeline())
		}
		_, err2 := tx.Node("node-1")
		return errors.Join(err, err2)
	})
	if err != nil {
		t.Error(err)
	}
}
