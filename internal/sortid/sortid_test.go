package sortid

import "testing"

func TestIDsSortByWhenTheyWereMade(t *testing.T) {
	before := ""
	for range 10_000 {
		id, err := New()
		if err != nil {
			t.Fatal(err)
		}
		if len(id) != 16 || id <= before {
			t.Fatalf("%q comes after %q", id, before)
		}
		before = id
	}
}
