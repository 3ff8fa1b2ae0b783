package store_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/store"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

func numbered(n uint64) *controlv1.Run {
	return &controlv1.Run{RunId: fmt.Sprintf("run-%d", n), Started: &timestamppb.Timestamp{Seconds: int64(n)}}
}

// BenchmarkCommit is the cost of making one small change durable.
func BenchmarkCommit(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "vigil.db"), nil)
	for n := range uint64(b.N) {
		if err := s.Update(b.Context(), func(tx *store.Tx) error { return tx.SetCursor("c", n) }); err != nil {
			b.Fatal(err)
		}
	}
}
