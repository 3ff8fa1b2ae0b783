package store

import (
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestExpiryReadsNoWholeTable: besides the index that has what is oldest, nothing
// that is read or deleted with old records is looked for row by row.
func TestExpiryReadsNoWholeTable(t *testing.T) {
	s, err := openAt(t, made(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	explain := func(tx *Tx, statement string, args ...any) (plan []string) {
		err := tx.each("plan", "EXPLAIN QUERY PLAN "+statement, args, func(rows *sql.Rows) error {
			var id, parent, unused int
			var detail string
			err := rows.Scan(&id, &parent, &unused, &detail)
			plan = append(plan, detail)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return plan
	}
	err = s.Update(t.Context(), func(tx *Tx) error {
		plans := map[string][]string{}
		for name, statement := range map[string]string{"incidents": oldIncidents, "findings": oldFindings, "runs": oldRuns} {
			plans[name] = explain(tx, statement, int64(1), 10)
		}
		for _, from := range slices.Concat(ofIncidents(), ofFindings(), ofRuns()) {
			plans[from] = explain(tx, "DELETE FROM "+strings.Replace(from, "?", "$1, $2", 1), "a", "b")
		}
		for name, plan := range plans {
			if len(plan) == 0 {
				t.Errorf("%s: there is no plan", name)
			}
			for _, step := range plan {
				if strings.HasPrefix(step, "SCAN ") {
					t.Errorf("%s: %s", name, fmt.Sprint(plan))
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
