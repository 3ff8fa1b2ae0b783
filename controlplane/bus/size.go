package bus

import (
	"context"
	"fmt"
)

// Size gives how many frames the bus keeps, and how many bytes they are.
func (b *Bus) Size(ctx context.Context) (frames, sizeBytes uint64, err error) {
	info, err := b.stream.Info(ctx)
	if err != nil {
		return 0, 0, fmt.Errorf("ask the bus for its size: %w", err)
	}
	return info.State.Msgs, info.State.Bytes, nil
}
