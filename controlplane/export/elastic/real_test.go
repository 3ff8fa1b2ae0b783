package elastic

import (
	"testing"

	"github.com/vigil-ml/vigil/controlplane/export/elastic/elastictest"
)

// TestRealServer runs the suite against Elasticsearch itself.
func TestRealServer(t *testing.T) {
	real := elastictest.StartReal(t)
	suite(t, func(t *testing.T) server { return server{url: real.URL(), t: t} })
}
