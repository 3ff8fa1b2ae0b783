package api

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/internal/testkit/bomb"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// TestHostileCalls: what is too large is refused before it takes memory, as it
// comes and unpacked; what is odd is no more than not found.
func TestHostileCalls(t *testing.T) {
	in := install(t)
	in.putRun(t, "r1", controlv1.RunState_RUN_STATE_RUNNING)
	zipped := bomb.Zeros(128)
	request := func(id string) []byte {
		text, err := proto.MarshalOptions{}.Marshal(&controlv1.GetRunRequest{RunId: id})
		if err != nil {
			t.Fatal(err)
		}
		return bomb.Frame(text, false, len(text))
	}
	secret := map[string]string{"Authorization": "Bearer " + in.doors.Secret}
	for name, tc := range map[string]struct {
		frame   []byte
		headers map[string]string
		code    codes.Code
	}{
		"5 MiB":                           {request(strings.Repeat("x", 5<<20)), secret, codes.ResourceExhausted},
		"128 MiB, compressed":             {bomb.Frame(zipped, true, len(zipped)), secret, codes.ResourceExhausted},
		"128 MiB, compressed, of nobody":  {bomb.Frame(zipped, true, len(zipped)), nil, codes.Unauthenticated},
		"says that it has 4 GiB":          {bomb.Frame([]byte("x"), false, 1<<32-1), secret, codes.ResourceExhausted},
		"compressed, and is not":          {bomb.Frame([]byte("not gzip"), true, 8), secret, codes.Internal},
		"a compression that there is not": {bomb.Frame([]byte("x"), true, 1), map[string]string{"Grpc-Encoding": "lzma", "Authorization": "Bearer " + in.doors.Secret}, codes.Unimplemented},
		"no protocol buffer":              {bomb.Frame([]byte("\xff\xff\xff"), false, 3), secret, codes.Internal},
		"text that is not UTF-8":          {bomb.Frame([]byte("\x0a\x02\xff\xfe"), false, 4), secret, codes.Internal},
		"an id that is a path":            {request("../../etc/passwd"), secret, codes.NotFound},
		"an id that is SQL":               {request("' OR 1=1; DROP TABLE runs; --"), secret, codes.NotFound},
		"an id with line breaks":          {request("r1\r\nX-Evil: 1"), secret, codes.NotFound},
		"and one that there is":           {request("r1"), secret, codes.OK},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		code, err := bomb.Call(ctx, in.address, controlv1.RunService_GetRun_FullMethodName, tc.frame, tc.headers)
		cancel()
		if code != tc.code {
			t.Errorf("%s: %v, %v; want %v", name, code, err, tc.code)
		}
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > 48<<20 {
			t.Errorf("%s: the call took %d MiB of memory", name, took>>20)
		}
	}
}

// TestHostileJSON is the same for JSON.
func TestHostileJSON(t *testing.T) {
	in := install(t)
	in.putRun(t, "r1", controlv1.RunState_RUN_STATE_RUNNING)
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = io.WriteString(z, `{"runId":"r1"}`)
	_ = z.Close()
	for name, tc := range map[string]struct {
		body    string
		headers map[string]string
		want    []int
	}{
		"9 MiB":                        {`{"runId":"` + strings.Repeat("x", 9<<20) + `"}`, nil, []int{400, 413}},
		"a hundred thousand brackets":  {strings.Repeat("[", 100000), nil, []int{400}},
		"a hundred thousand objects":   {strings.Repeat(`{"a":`, 100000), nil, []int{400}},
		"unknown fields, very deep":    {`{"x":` + strings.Repeat(`{"a":`, 20000) + "1" + strings.Repeat("}", 20000) + "}", nil, []int{400}},
		"not UTF-8":                    {"{\"runId\":\"\xff\xfe\"}", nil, []int{400}},
		"compressed":                   {zipped.String(), map[string]string{"Content-Encoding": "gzip"}, []int{400}},
		"a form, as another site's":    {"runId=r1", map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, []int{415}},
		"text, as another site's":      {`{"runId":"r1"}`, map[string]string{"Content-Type": "text/plain"}, []int{415}},
		"a credential as a parameter":  {`{"runId":"r1"}`, map[string]string{"Authorization": "", "Cookie": "authorization=" + in.doors.Secret}, []int{401}},
		"a credential as gateway word": {`{"runId":"r1"}`, map[string]string{"Authorization": "Basic eDp5"}, []int{401}},
		"a source that is made up":     {`{"runId":"r1"}`, map[string]string{"X-Forwarded-For": "127.0.0.1, 192.0.2.1"}, []int{200}},
		"and then one that is so":      {`{"runId":"r1"}`, nil, []int{200}},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+in.address+"/vigil.control.v1.RunService/GetRun", strings.NewReader(tc.body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("Authorization", "Bearer "+in.doors.Secret)
		for key, value := range tc.headers {
			request.Header.Set(key, value)
		}
		response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		if !slices.Contains(tc.want, response.StatusCode) {
			t.Errorf("%s: status %d, want %v", name, response.StatusCode, tc.want)
		}
	}
}

// TestNobodysBodyIsNotRead: who is not known is told so by what comes first, while
// the message has not come yet, and never will: as gRPC and as JSON, over a real
// socket.
func TestNobodysBodyIsNotRead(t *testing.T) {
	in := install(t)
	head := "POST /vigil.control.v1.RunService/GetRun HTTP/1.1\r\nHost: v\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n"
	_, good := in.token(t, time.Hour, nil, commonv1.Role_ROLE_VIEWER)
	for name, tc := range map[string]struct{ secret, want string }{
		"nobody":        {"", "401"},
		"made up":       {"vgl_a_b", "401"},
		"an admin's":    {"vgladmin_x", "401"},
		"not even ours": {"Zm9vOmJhcg", "401"},
	} {
		conn, err := net.Dial("tcp", in.address)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		text := head
		if tc.secret != "" {
			text += "Authorization: Bearer " + tc.secret + "\r\n"
		}
		if _, err := io.WriteString(conn, text+"\r\n{"); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || !strings.HasPrefix(response.Status, tc.want) {
			t.Errorf("%s: %v, %v; want %s while the body does not come", name, response, err, tc.want)
		} else {
			body, err := io.ReadAll(response.Body) // ends with the connection
			if err != nil || !strings.Contains(string(body), `"code":16`) {
				t.Errorf("%s: body %s, %v", name, body, err)
			}
		}
		_ = conn.Close()
	}
	call := func(secret string) codes.Code {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		stream, err := in.as(t, secret).NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, controlv1.RunService_GetRun_FullMethodName)
		if err == nil {
			err = stream.RecvMsg(&controlv1.GetRunResponse{}) // nothing was sent
		}
		return status.Code(err)
	}
	if code := call(""); code != codes.Unauthenticated {
		t.Errorf("gRPC of nobody: %v", code)
	}
	if code := in.invokeWith(t, controlv1.RunService_ListRuns_FullMethodName, good, &controlv1.ListRunsRequest{}); code != codes.OK {
		t.Errorf("gRPC of somebody: %v", code)
	}
}
