package audit

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/testkit/postgres"
)

// storeURL is the variable that has the tests use a PostgreSQL.
const storeURL = "VIGIL_TEST_AUDIT_STORE"

// storeAt is a store in a file, or in the PostgreSQL that the tests are to use.
func storeAt(path string) store.Config {
	if url := os.Getenv(storeURL); url != "" {
		return store.Config{URL: url}
	}
	return store.Config{Path: path}
}

// inPostgres says a statement of the tests in PostgreSQL's words: what is a text
// to SQLite where it holds bytes is none there.
func inPostgres(statement string) string {
	statement = regexp.MustCompile(`replace\(body, ('[^']*'), ('[^']*')\)`).
		ReplaceAllString(statement, `convert_to(replace(convert_from(body, 'UTF8'), $1, $2), 'UTF8')`)
	return strings.ReplaceAll(statement, "x''", "''::bytea")
}

// TestOnPostgres runs the tests of the log on PostgreSQL.
func TestOnPostgres(t *testing.T) {
	server := postgres.Start(t, "fsync=off")
	for name, test := range map[string]func(*testing.T){
		"the log is good": TestTheLogIsGood, "many write at once": TestManyWriteAtOnce,
		"records ride with changes": TestRecordsRideWithChanges, "search and activity": TestSearchAndActivity,
		"copies follow": TestCopiesFollow, "retention": TestRetention, "proofs": TestProofsOfTheLog,
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(storeURL, server.URL(t))
			test(t)
		})
	}
	t.Run("changes are found", func(t *testing.T) { testChangesAreFound(t, func(t *testing.T) { t.Setenv(storeURL, server.URL(t)) }) })
}
