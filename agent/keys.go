package agent

import (
	"context"

	"github.com/vigil-ml/vigil/internal/envelope"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// keyUsed reports that the key was used that encrypts the keys of checkpoints.
func (a *agent) keyUsed(ctx context.Context, used envelope.Use) {
	a.log.Info("key of checkpoints is used", "use", used.What, "kek", used.KEK, "key", used.Key, "keys", used.Keys)
	err := a.journal.Events(ctx, "", &commonv1.Event{Body: &commonv1.Event_KeyUsed{KeyUsed: &commonv1.KeyUsed{
		Use: used.What, KekId: used.KEK, KeyId: used.Key, Keys: uint32(used.Keys), Path: used.Path,
	}}})
	if err != nil {
		a.log.Warn("write key event", "use", used.What, "error", err)
	}
}
