package telemetry

import (
	"net/http"
	"net/http/pprof"
)

// HandleProfiles adds net/http/pprof's pages below /debug/pprof/ to a mux. They
// show what is in memory: whoever serves them lets administrators only.
func HandleProfiles(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
}
