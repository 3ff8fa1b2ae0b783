package collect

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

func TestComplaintHasAnErrorOnlyWhereThereIsOne(t *testing.T) {
	var log bytes.Buffer
	r := &Runner{deps: RunnerDeps{Log: slog.New(slog.NewTextHandler(&log, nil))}}
	s := &source{Source: Source{Name: "s"}}
	r.complain(s, Unsupported, nil)
	if got := log.String(); !strings.Contains(got, "status=unsupported") || strings.Contains(got, "err=") {
		t.Errorf("without an error: %s", got)
	}
	log.Reset()
	r.complain(s, Unknown, errors.New("broken"))
	if got := log.String(); !strings.Contains(got, "err=broken") {
		t.Errorf("with an error: %s", got)
	}
}
