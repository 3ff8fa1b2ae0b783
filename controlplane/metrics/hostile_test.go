package metrics

import (
	"bytes"
	"encoding/binary"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"

	"github.com/klauspost/compress/snappy"
)

// TestHostileWrites: a request of remote write that unpacks to gigabytes, or says
// so, takes no memory.
func TestHostileWrites(t *testing.T) {
	db := openLive(t, func(c *Config) { c.Receive = true })
	for name, tc := range map[string]struct {
		body []byte
		code int
	}{
		"says that it has 4 GiB": {binary.AppendUvarint(nil, 1<<32-1), http.StatusRequestEntityTooLarge},
		"128 MiB of zeros":       {snappy.Encode(nil, make([]byte, 128<<20)), http.StatusRequestEntityTooLarge},
		"17 MiB as they come":    {make([]byte, 17<<20), http.StatusRequestEntityTooLarge},
		"not compressed":         {[]byte("hello"), http.StatusBadRequest},
		"nothing":                {nil, http.StatusBadRequest},
		"no protocol buffer":     {snappy.Encode(nil, []byte("\xff\xff\xff")), http.StatusBadRequest},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		request := httptest.NewRequest(http.MethodPost, "/api/v1/write", bytes.NewReader(tc.body))
		request.Header.Set("Content-Encoding", "snappy")
		request.Header.Set("Content-Type", "application/x-protobuf")
		request.Header.Set("X-Prometheus-Remote-Write-Version", "0.1.0")
		answer := httptest.NewRecorder()
		db.Handler().ServeHTTP(answer, request)
		runtime.ReadMemStats(&after)
		if answer.Code != tc.code {
			t.Errorf("%s: status %d %s, want %d", name, answer.Code, answer.Body, tc.code)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 96<<20 {
			t.Errorf("%s: took %d MiB of memory", name, took>>20)
		}
	}
}
