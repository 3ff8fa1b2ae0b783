package authority

import (
	"os"
	"testing"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/testkit/postgres"
)

// storeURL is the variable that has the tests use a PostgreSQL.
const storeURL = "VIGIL_TEST_AUTHORITY_STORE"

// storeAt is a store in a file, or in the PostgreSQL that the tests are to use.
func storeAt(path string) store.Config {
	if url := os.Getenv(storeURL); url != "" {
		return store.Config{URL: url}
	}
	return store.Config{Path: path}
}

// TestOnPostgres runs the tests of the authority on PostgreSQL.
func TestOnPostgres(t *testing.T) {
	server := postgres.Start(t, "fsync=off")
	for name, test := range map[string]func(*testing.T){
		"who says another name": TestWhoSaysAnotherNameIsRecorded, "table of nodes": TestNodesTable, "who may join": TestWhoMayJoin, "revocation": TestRevocationCutsTheStream,
		"renewal": TestAStreamOutlivesARenewedCertificate, "the authority stays": TestTheAuthorityStays,
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(storeURL, server.URL(t))
			test(t)
		})
	}
}
