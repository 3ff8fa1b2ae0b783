package store

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// TestWhatIsPersonalIsEncryptedAnew holds the tables of what is encrypted against
// the messages that say something of people.
func TestWhatIsPersonalIsEncryptedAnew(t *testing.T) {
	var tables []protoreflect.FullName
	for _, table := range sealedTables() {
		tables = append(tables, table.of)
	}
	if len(PersonalTypes()) < 5 {
		t.Fatalf("only %v say something of people", PersonalTypes())
	}
	for name := range PersonalTypes() {
		if !slices.Contains(tables, name) {
			t.Errorf("%s has a field that is marked as personal, and no table of it is encrypted anew", name)
		}
	}
	for _, name := range tables {
		if !PersonalTypes()[name] {
			t.Errorf("%s says nothing of people", name)
		}
	}
}
