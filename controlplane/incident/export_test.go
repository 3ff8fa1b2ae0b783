package incident

import "context"

// Look is what Run does again and again.
func (e *Engine) Look(ctx context.Context) error { return e.look(ctx) }
