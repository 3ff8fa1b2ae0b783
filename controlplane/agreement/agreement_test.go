package agreement_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vigil-ml/vigil/controlplane/agreement"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open makes a service on records of its own.
func open(t *testing.T, known error) *agreement.Service {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{Path: filepath.Join(t.TempDir(), "records.db")}, store.Deps{Log: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return agreement.New(agreement.Deps{Store: s, Known: func(context.Context) (string, error) { return "n1", known }})
}

func note(round uint32, name, content string) *agentv1.MeetRequest {
	return &agentv1.MeetRequest{RunId: "r", Notes: []*agentv1.AgreementNote{{Round: round, Name: name, Content: []byte(content)}}}
}

func TestWhoWaitsIsToldOfWhatOthersPost(t *testing.T) {
	s := open(t, nil)
	first, err := s.Meet(t.Context(), note(1, "plan.json", "a"))
	if err != nil || len(first.Notes) != 1 || string(first.Notes[0].Content) != "a" {
		t.Fatalf("own note: %v, %v", first, err)
	}
	type answer struct {
		out *agentv1.MeetResponse
		err error
	}
	told := make(chan answer, 1)
	go func() {
		out, err := s.Meet(t.Context(), &agentv1.MeetRequest{RunId: "r", After: first.Notes[0].Place, Wait: durationpb.New(5 * time.Second)})
		told <- answer{out, err}
	}()
	second, err := s.Meet(t.Context(), note(1, "plan.json", "b"))
	if err != nil || len(second.Notes) != 1 || string(second.Notes[0].Content) != "a" {
		t.Errorf("who is second is told %v, %v; want what the first wrote", second, err)
	}
	if _, err := s.Meet(t.Context(), note(1, "joined-rank-00001", "{}")); err != nil {
		t.Fatal(err)
	}
	if a := <-told; a.err != nil || len(a.out.Notes) != 1 || a.out.Notes[0].Name != "joined-rank-00001" {
		t.Errorf("who waited is told %v, %v", a.out, a.err)
	}
	if out, err := s.Meet(t.Context(), &agentv1.MeetRequest{RunId: "other", Wait: durationpb.New(time.Millisecond)}); err != nil || len(out.Notes) > 0 {
		t.Errorf("another run: %v, %v", out, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Meet(ctx, &agentv1.MeetRequest{RunId: "other", Wait: durationpb.New(5 * time.Second)}); err == nil {
		t.Error("a call that its caller gave up is answered")
	}
}

func TestWhatNoAgentSendsIsRefused(t *testing.T) {
	s := open(t, nil)
	many := note(1, "plan.json", "")
	for range 20 {
		many.Notes = append(many.Notes, many.Notes[0])
	}
	for name, in := range map[string]*agentv1.MeetRequest{
		"no run": {}, "a long run": {RunId: strings.Repeat("x", 300)}, "round 0": note(0, "plan.json", ""),
		"a path": note(1, "../plan", ""), "no name": note(1, "", ""), "long content": note(1, "plan.json", strings.Repeat("x", 1<<17)),
		"many notes": many, "a long wait": {RunId: "r", Wait: durationpb.New(time.Hour)}, "a wait below 0": {RunId: "r", Wait: durationpb.New(-1)},
	} {
		if _, err := s.Meet(t.Context(), in); !fault.Is(fault.FromGRPC(err), fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	denied := open(t, fault.Mark(fault.Unauthenticated, errors.New("who are you")))
	if _, err := denied.Meet(t.Context(), note(1, "plan.json", "")); !fault.Is(fault.FromGRPC(err), fault.Unauthenticated) {
		t.Errorf("somebody who is not known: %v", err)
	}
}
