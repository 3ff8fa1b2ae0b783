package metrics

import (
	"net/http"
	"runtime"

	"github.com/vigil-ml/vigil/internal/version"
)

// metadata answers /api/v1/metadata with the dictionary.
func (db *DB) metadata(r *http.Request) (answer, error) {
	limit, err := limitParameter(r)
	if err != nil {
		return answer{}, err
	}
	type entry struct {
		Type string `json:"type"`
		Help string `json:"help"`
		Unit string `json:"unit"`
	}
	all := map[string][]entry{}
	for name, def := range db.dictionary {
		if want := r.Form.Get("metric"); want != "" && want != name {
			continue
		}
		if limit > 0 && len(all) == limit {
			break
		}
		all[name] = []entry{{string(def.Type), def.Help, def.Unit}}
	}
	return answer{data: all}, nil
}

// buildInfo answers /api/v1/status/buildinfo. The version is that of the
// Prometheus whose engine and API this is: clients choose by it what they ask.
func (db *DB) buildInfo(*http.Request) (answer, error) {
	return answer{data: map[string]string{
		"version": prometheusVersion, "revision": version.String(), "branch": "", "buildUser": "vigil", "buildDate": "",
		"goVersion": runtime.Version(),
	}}, nil
}

// prometheusVersion is that of the packages that answer queries; v0.316 is 3.16.
const prometheusVersion = "3.16.0"

// formatQuery answers /api/v1/format_query: an expression as it is usually
// written.
func (db *DB) formatQuery(r *http.Request) (answer, error) {
	expression, err := db.parser.ParseExpr(r.Form.Get("query"))
	if err != nil {
		return answer{}, badParameter("query", err)
	}
	return answer{data: expression.Pretty(0)}, nil
}
