package localapi

import (
	"context"
	"os"

	"github.com/vigil-ml/vigil/internal/durable"
)

// WatchRuns is the part of Run that ends lost runs.
func (a *API) WatchRuns(ctx context.Context) error { return a.watchRuns(ctx) }

// WatchSteps is the part of Run that makes ticks.
func (a *API) WatchSteps(ctx context.Context) error { return a.watchSteps(ctx) }

// LoadRuns has the API keep its runs in a file, as Run does.
func (a *API) LoadRuns(path string) { a.book.load(durable.OS{}, path) }

// Present tells whether a process of a run is there.
func (t *Sessions) Present(runID string) bool { return t.present(runID) }

// LaunchedForTest notes attempt 2 of a run, in process 9.
func (a *API) LaunchedForTest(runID string) {
	a.book.launched(runID, os.Getuid(), 2, 9, a.deps.Clock())
}

// ClaimForTest has a run be of a user, as registering does, and notes that it was
// launched.
func (a *API) ClaimForTest(runID string, uid int) (owner int, ok bool) {
	owner, ok = a.book.claim(runID, uid, a.deps.Clock())
	if ok && owner == uid {
		a.book.launched(runID, uid, 0, 1, a.deps.Clock())
	}
	return owner, ok
}

// KeepNoRuns has a serving API write no runs to its file.
func (a *API) KeepNoRuns() {
	a.book.mu.Lock()
	defer a.book.mu.Unlock()
	a.book.fsys = nil
}
