package metrics

import (
	"encoding/json"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
)

// serve gives the address of a handler.
func serve(t testing.TB, db *DB) string {
	t.Helper()
	server := httptest.NewServer(db.Handler())
	t.Cleanup(server.Close)
	return server.URL
}

// instant asks for an expression at noon, by form as Prometheus' client does,
// and gives values by their labels, read with Prometheus' own types.
func instant(t testing.TB, db *DB, expression string) map[string]string {
	t.Helper()
	form := url.Values{"query": {expression}, "time": {noon().Format(time.RFC3339)}}
	response, err := http.PostForm(serve(t, db)+"/api/v1/query", form)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer func() { _ = response.Body.Close() }()
	var got struct {
		Data struct{ Result model.Vector }
	}
	if err := json.NewDecoder(response.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for _, sample := range got.Data.Result {
		l := model.LabelSet(sample.Metric)
		values[l.String()] = sample.Value.String()
	}
	return values
}

// fill stores two mounts of two nodes, ten seconds each.
func fill(t testing.TB) *DB {
	db := openDB(t, t.TempDir())
	for second := range 10 {
		for _, node := range []string{"a", "b"} {
			mustAppend(t, db, node, free(second, "/", float64(second)), free(second, "/data", 2.5), load(second, math.NaN()))
		}
	}
	return db
}

func get(t *testing.T, address string) (int, string) {
	t.Helper()
	response, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	defer http.DefaultClient.CloseIdleConnections()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if kind := response.Header.Get("Content-Type"); kind != "application/json" {
		t.Errorf("content type %q", kind)
	}
	return response.StatusCode, string(body)
}

// TestAnswersByteForByte holds answers against what Prometheus 3 writes for the
// same data.
func TestAnswersByteForByte(t *testing.T) {
	db := fill(t)
	address := serve(t, db)
	const disk = `"__name__":"vigil_host_disk_available_bytes"`
	tests := []struct{ path, want string }{
		{"query?time=1772366403.5&query=" + url.QueryEscape(`vigil_host_disk_available_bytes{node="a"}`),
			`{"status":"success","data":{"resultType":"vector","result":[{"metric":{` + disk + `,"mount":"/","node":"a"},"value":[1772366403.500,"3"]},{"metric":{` + disk + `,"mount":"/data","node":"a"},"value":[1772366403.500,"2.5"]}]}}`},
		{"query?time=1772366403&query=vigil_host_load1", `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"vigil_host_load1","node":"a"},"value":[1772366403,"NaN"]},{"metric":{"__name__":"vigil_host_load1","node":"b"},"value":[1772366403,"NaN"]}]}}`},
		{"query?query=nothing", `{"status":"success","data":{"resultType":"vector","result":[]}}`},
		{"query?time=1&query=1e-9", `{"status":"success","data":{"resultType":"scalar","result":[1,"1e-09"]}}`},
		{"query?time=-1.5&query=-Inf", `{"status":"success","data":{"resultType":"scalar","result":[-1.500,"-Inf"]}}`},
		{"query?time=1&query=%22a%5C%22b%22", `{"status":"success","data":{"resultType":"string","result":[1,"a\"b"]}}`},
		{"query_range?start=1772366401&end=1772366405&step=2&query=" + url.QueryEscape(`sum(vigil_host_disk_available_bytes{mount="/"})`),
			`{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1772366401,"2"],[1772366403,"6"],[1772366405,"10"]]}]}}`},
		{"query_range?start=1&end=2&step=1&query=nothing", `{"status":"success","data":{"resultType":"matrix","result":[]}}`},
		{"labels", `{"status":"success","data":["__name__","mount","node"]}`},
		{"labels?match[]=vigil_host_load1", `{"status":"success","data":["__name__","node"]}`},
		{"label/mount/values", `{"status":"success","data":["/","/data"]}`},
		{"label/mount/values?limit=1", `{"status":"success","data":["/"],"warnings":["results truncated due to limit"]}`},
		{"label/none/values", `{"status":"success","data":[]}`},
		{"series?match[]=none", `{"status":"success","data":[]}`},
		{"series?match[]=vigil_host_load1&match[]=%7Bnode=%22b%22,mount=%22/%22%7D",
			`{"status":"success","data":[{` + disk + `,"mount":"/","node":"b"},{"__name__":"vigil_host_load1","node":"a"},{"__name__":"vigil_host_load1","node":"b"}]}`},
		{"series?limit=1&match[]=vigil_host_load1", `{"status":"success","data":[{"__name__":"vigil_host_load1","node":"a"}],"warnings":["results truncated due to limit"]}`},
	}
	for _, test := range tests {
		if code, got := get(t, address+"/api/v1/"+test.path); code != 200 || got != test.want {
			t.Errorf("%s: %d\n got %s\nwant %s", test.path, code, got, test.want)
		}
	}
}

func TestErrors(t *testing.T) {
	db := fill(t)
	address := serve(t, db)
	tests := []struct {
		path string
		code int
		kind string
		text string
	}{
		{"query", 400, "bad_data", `invalid parameter "query"`},
		{"query?query=sum(", 400, "bad_data", `invalid parameter "query"`},
		{"query?query=1&time=noon", 400, "bad_data", `invalid parameter "time": cannot parse "noon" to a valid timestamp`},
		{"query?query=1&limit=-1", 400, "bad_data", `invalid parameter "limit"`},
		{"query?query=1&timeout=long", 400, "bad_data", `invalid parameter "timeout"`},
		{"query?query=vigil_host_load1&timeout=1e-9", 503, "timeout", "query timed out"},
		{"query?time=1772366403&query=" + url.QueryEscape(`vigil_host_load1 * on() vigil_host_load1`), 422, "execution", "many"},
		{"query_range?query=1&end=2&step=1", 400, "bad_data", `invalid parameter "start"`},
		{"query_range?query=1&start=2&end=1&step=1", 400, "bad_data", "end timestamp must not be before start time"},
		{"query_range?query=1&start=1&end=2&step=0", 400, "bad_data", "zero or negative"},
		{"query_range?query=1&start=1&end=2&step=x", 400, "bad_data", `cannot parse "x" to a valid duration`},
		{"query_range?query=1&start=0&end=20000&step=1", 400, "bad_data", "11,000 points"},
		{"series", 400, "bad_data", "no match[] parameter provided"},
		{"series?match[]=%7B%7D", 400, "bad_data", "at least one non-empty matcher"},
		{"series?match[]=a&start=x", 400, "bad_data", `invalid parameter "start"`},
		{"labels?match[]=%7B", 400, "bad_data", `invalid parameter "match[]"`},
		{"labels?limit=x", 400, "bad_data", `invalid parameter "limit"`},
	}
	for _, test := range tests {
		code, body := get(t, address+"/api/v1/"+test.path)
		var got struct{ Status, ErrorType, Error string }
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatalf("%s: %v in %s", test.path, err, body)
		}
		if code != test.code || got.Status != "error" || got.ErrorType != test.kind || !strings.Contains(got.Error, test.text) {
			t.Errorf("%s: %d %+v", test.path, code, got)
		}
	}
}

func TestQueriesWaitForASlot(t *testing.T) {
	s := slots(make(chan struct{}, 1))
	if _, err := s.Insert(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error)
	go func() {
		_, err := s.Insert(t.Context(), "")
		waiting <- err
	}()
	select {
	case <-waiting:
		t.Fatal("two queries have the one slot")
	default:
	}
	s.Delete(0)
	if err := <-waiting; err != nil {
		t.Error(err)
	}
}
