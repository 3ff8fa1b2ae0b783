package storetest

import (
	"errors"
	"testing"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// testFeedback checks the lists of findings and what people say of them.
func testFeedback(t *testing.T, b *bench) {
	word := func(verdict controlv1.Verdict, note string) *controlv1.Feedback {
		return &controlv1.Feedback{Verdict: verdict, Note: note, Author: "ada", Time: stamp(50)}
	}
	b.update(func(tx *store.Tx) error {
		var errs []error
		for i, f := range []*controlv1.Finding{finding("f1", 3, 1, 10), finding("f2", 3, 1, 30), finding("f3", 3, 1, 20)} {
			f.Kind = []string{"spike", "hang", "spike"}[i]
			if f.GetFindingId() == "f3" {
				f.RunId, f.Shadow = "q", true
			}
			_, err := tx.PutFinding(f)
			errs = append(errs, err)
		}
		errs = append(errs, tx.AttachFinding("i1", "f1"),
			tx.PutFeedback("f1", word(controlv1.Verdict_VERDICT_CONFIRMED, "first")),
			tx.PutFeedback("f1", word(controlv1.Verdict_VERDICT_FALSE_ALARM, "second")))
		if err := tx.PutFeedback("none", word(controlv1.Verdict_VERDICT_CONFIRMED, "")); !fault.Is(err, fault.NotFound) {
			t.Errorf("feedback on no finding: %v", err)
		}
		return errors.Join(errs...)
	})
	for _, tc := range []struct {
		run, kind string
		limit     int
		want      []string
	}{
		{"", "", 0, []string{"f2", "f3", "f1"}}, {"", "", 2, []string{"f2", "f3"}}, {"r", "", 0, []string{"f2", "f1"}},
		{"", "spike", 0, []string{"f3", "f1"}}, {"", "spike", 1, []string{"f3"}}, {"r", "spike", 5, []string{"f1"}}, {"none", "", 0, nil},
	} {
		b.view(func(tx *store.Tx) error {
			found, err := tx.Findings(tc.run, tc.kind, tc.limit)
			var ids []string
			for _, record := range found {
				ids = append(ids, record.GetFinding().GetFindingId())
			}
			b.same("findings of "+tc.run+" "+tc.kind, ids, tc.want)
			return err
		})
	}
	b.view(func(tx *store.Tx) error {
		one, err := tx.Finding("f1")
		if err != nil {
			return err
		}
		b.same("feedback", one.GetFeedback(), word(controlv1.Verdict_VERDICT_FALSE_ALARM, "second"))
		b.same("incident", one.GetIncidentId(), "i1")
		other, err := tx.Finding("f3")
		b.same("nothing said", other.GetFeedback() == nil && other.GetFinding().GetShadow(), true)
		if _, err := tx.Finding("none"); !fault.Is(err, fault.NotFound) {
			t.Errorf("no finding: %v", err)
		}
		return err
	})
}
