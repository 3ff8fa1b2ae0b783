package api

import (
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/serve"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// TestStreamsEndWithTheirToken: who is no longer known hears no more, whether
// the token was revoked or ran out; others go on.
func TestStreamsEndWithTheirToken(t *testing.T) {
	in := install(t)
	in.putRun(t, "r1", controlv1.RunState_RUN_STATE_RUNNING)
	follow := func(secret string) grpc.ServerStreamingClient[controlv1.WatchEventsResponse] {
		conn, err := grpc.NewClient("passthrough:///"+in.address, grpc.WithTransportCredentials(insecure.NewCredentials()), serve.Bearer(secret, true))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		stream, err := controlv1.NewRunServiceClient(conn).WatchEvents(t.Context(), &controlv1.WatchEventsRequest{RunId: "r1", Follow: true})
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	revokedID, revoked := in.token(t, time.Hour, nil, commonv1.Role_ROLE_VIEWER)
	_, short := in.token(t, 2*time.Second, nil, commonv1.Role_ROLE_VIEWER)
	_, good := in.token(t, time.Hour, nil, commonv1.Role_ROLE_VIEWER)
	stays, ends := follow(good), map[string]grpc.ServerStreamingClient[controlv1.WatchEventsResponse]{"revoked": follow(revoked), "ran out": follow(short)}
	in.update(t, func(tx *store.Tx) error { _, err := in.doors.Tokens.Revoke(tx, revokedID); return err })
	for name, stream := range ends {
		for err := error(nil); ; {
			if _, err = stream.Recv(); err == nil {
				continue
			}
			if status.Code(err) != codes.Unauthenticated {
				t.Errorf("%s: the stream ended with %v", name, err)
			}
			break
		}
	}
	heard := make(chan error, 1)
	go func() {
		_, err := stays.Recv()
		heard <- err
	}()
	select {
	case err := <-heard:
		if err != nil {
			t.Errorf("the stream of a token that is good ended with %v", err)
		}
	case <-time.After(100 * time.Millisecond): // it says nothing, as there is nothing to say
	}
}
