// Package profiles serves what Go's profiler knows of a program. It is apart
// from the rest of telemetry because whoever links net/http/pprof pays for it,
// used or not: each program keeps a table of where its memory comes from.
package profiles

import (
	"net/http"
	"net/http/pprof"
)

// Handle adds net/http/pprof's pages below /debug/pprof/ to a mux. They show
// what is in memory: whoever serves them lets administrators only.
func Handle(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
}
