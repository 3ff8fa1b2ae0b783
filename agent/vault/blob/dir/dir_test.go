package dir

import (
	"testing"

	"github.com/vigil-ml/vigil/agent/vault/blob"
	"github.com/vigil-ml/vigil/agent/vault/blob/blobtest"
	"github.com/vigil-ml/vigil/internal/fault"
)

func TestConformance(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store {
		s, err := New(Config{Dir: t.TempDir()}, blob.Deps{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestNeedsADirectory(t *testing.T) {
	if _, err := New(Config{}, blob.Deps{}); !fault.Is(err, fault.Invalid) {
		t.Errorf("without a directory: %v", err)
	}
}
