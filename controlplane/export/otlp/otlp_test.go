package otlp

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	otlplogs "go.opentelemetry.io/proto/otlp/logs/v1"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vigil-ml/vigil/alerting/notify"
	"github.com/vigil-ml/vigil/controlplane/export"
	"github.com/vigil-ml/vigil/controlplane/export/otlp/otlptest"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/testkit"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		os.Exit(code)
	}))
}

func at() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 5, time.UTC) }

func open(t *testing.T, r *otlptest.Receiver, change func(*Config)) export.Exporter {
	t.Helper()
	config := Defaults()
	config.Endpoint, config.Plaintext = r.Address(), true
	if change != nil {
		change(&config)
	}
	config.Check(func(key, format string, args ...any) { t.Errorf("%s: %s", key, fmt.Sprintf(format, args...)) })
	made, err := New(config, export.Deps{Name: "out", Version: "test", Log: testkit.Logger(t), Clock: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = made.Close() })
	return made
}

func documents(n int) []export.Document {
	all := make([]export.Document, n)
	for i := range all {
		all[i] = export.Document{
			Stream: export.StreamFindings, ID: fmt.Sprintf("f-%d", i), Time: at(), Received: at().Add(time.Second),
			Fields: map[string]any{
				"@timestamp": "x", "message": "a NaN", "event": map[string]any{"reason": "critical", "id": fmt.Sprintf("f-%d", i)},
				"host": map[string]any{"name": "n1"}, "trace": map[string]any{"id": "0af7651916cd43dd8448eb211c80319c"},
				"vigil": map[string]any{"step": int64(7), "rank": uint32(2), "body": map[string]any{"a": []any{1.5, nil, "x"}}},
			},
		}
	}
	return all
}

func TestADocumentIsALogRecord(t *testing.T) {
	r := otlptest.New(t)
	e := open(t, r, func(c *Config) { c.Headers = map[string]notify.Secret{"x-token": "s3cret"} })
	verdicts, err := e.Export(t.Context(), documents(1))
	if err != nil || verdicts[0].Outcome != export.Taken {
		t.Fatal(verdicts, err)
	}
	got := r.Logs()[0]
	if got.UID != "f-0" || got.Record.GetBody().GetStringValue() != "a NaN" || got.Record.GetEventName() != "vigil.findings" ||
		got.Record.GetSeverityNumber() != otlplogs.SeverityNumber_SEVERITY_NUMBER_ERROR || got.Record.GetTimeUnixNano() != uint64(at().UnixNano()) ||
		fmt.Sprintf("%x", got.Record.GetTraceId()) != "0af7651916cd43dd8448eb211c80319c" || otlptest.Attribute(got.Resource.GetAttributes(), "host.name") != "n1" {
		t.Errorf("the record is %v of %v", got.Record, got.Resource)
	}
	var names []string
	for _, a := range got.Record.GetAttributes() {
		names = append(names, a.GetKey())
	}
	want := []string{"log.record.uid", "event.id", "event.reason", "vigil.body", "vigil.rank", "vigil.step"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
	if got := r.Headers().Get("x-token"); len(got) != 1 || got[0] != "s3cret" {
		t.Errorf("the header is %v", got)
	}
}

// TestWhatBecomesOfRequests holds what each answer of a receiver means for what
// was sent.
func TestWhatBecomesOfRequests(t *testing.T) {
	busy, err := status.New(codes.ResourceExhausted, "busy").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(7 * time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		says error
		kind fault.Kind
		wait time.Duration
	}{
		"away":      {status.Error(codes.Unavailable, "away"), fault.Unavailable, 0},
		"busy":      {busy.Err(), fault.Unavailable, 7 * time.Second},
		"no rights": {status.Error(codes.PermissionDenied, "no"), fault.Denied, 0},
		"no token":  {status.Error(codes.Unauthenticated, "who"), fault.Unauthenticated, 0},
		"no logs":   {status.Error(codes.Unimplemented, "traces only"), fault.Unsupported, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := otlptest.New(t)
			r.Fail(func(int, string) (bool, error) { return false, tc.says })
			_, err := open(t, r, nil).Export(t.Context(), documents(3))
			if !fault.Is(err, tc.kind) {
				t.Errorf("gave %v, want kind %s", err, tc.kind)
			}
			told, ok := err.(export.RetryAfter)
			if ok != (tc.wait > 0) || told.Wait != tc.wait {
				t.Errorf("comes again after %v", told.Wait)
			}
			if len(r.Logs()) != 0 {
				t.Errorf("%d records were kept", len(r.Logs()))
			}
		})
	}
}

// TestOnlyWhatIsToBlameIsRefused holds that a request with one bad document is
// divided until that is alone, and that too large requests are divided too.
func TestOnlyWhatIsToBlameIsRefused(t *testing.T) {
	r := otlptest.New(t)
	e := open(t, r, func(c *Config) { c.MaxRequestBytes, c.Compress = 1<<20, false })
	all := documents(9)
	all[4].Fields["message"] = strings.Repeat("x", 5<<20) // more than gRPC servers take
	for i := range all {
		if i != 4 {
			all[i].Fields["message"] = strings.Repeat("y", 400<<10)
		}
	}
	verdicts, err := e.Export(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range verdicts {
		if want := i == 4; (v.Outcome == export.Refused) != want {
			t.Errorf("document %d: %v", i, v)
		}
	}
	if got := len(r.Times()); got != 8 || len(r.Logs()) != 8 {
		t.Errorf("%d records of %d ids are there, want 8", len(r.Logs()), got)
	}
	if r.Requests() < 4 {
		t.Errorf("3.2 MB went in %d requests of 1 MiB", r.Requests())
	}
}

func TestCheckNamesWhatCannotBe(t *testing.T) {
	c := Config{Endpoint: "collector", Plaintext: true, CAFile: "x", Headers: map[string]notify.Secret{"X-A": "v"}}
	var keys []string
	c.Check(func(key, _ string, _ ...any) { keys = append(keys, key) })
	want := []string{"endpoint", "ca_file", "max_request_bytes", "timeout", "headers.X-A"}
	if diff := cmp.Diff(want, keys); diff != "" {
		t.Error(diff)
	}
}
