package ingest

import (
	"net"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/vigil-ml/vigil/internal/fault"
)

// greeting is a handshake in which the client says two bytes.
type greeting struct {
	credentials.TransportCredentials
}

func (greeting) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	for range 2 {
		if _, err := raw.Read(make([]byte, 1)); err != nil {
			return nil, nil, err
		}
	}
	return raw, nil, nil
}

// TestHandshakesTakeTurns has one handshake go on at a time: who has said nothing
// keeps nobody waiting, who has begun does until it is done or takes too long, and
// who waited too long is refused.
func TestHandshakesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &handshakes{greeting{}, make(chan struct{}, 1), 2 * time.Second, 15 * time.Second}
		dial := func() (client net.Conn, done chan error) {
			client, server := net.Pipe()
			t.Cleanup(func() { _ = client.Close(); _ = server.Close() })
			done = make(chan error, 1)
			go func() { _, _, err := h.ServerHandshake(server); done <- err }()
			return client, done
		}
		say := func(client net.Conn) {
			t.Helper()
			if _, err := client.Write([]byte{1}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		silent, _ := dial()
		first, firstDone := dial()
		say(first)
		second, secondDone := dial()
		say(second) // waits for its turn
		if len(h.turns) != 1 {
			t.Fatalf("%d handshakes go on, want that of the first", len(h.turns))
		}
		say(first)
		if err := <-firstDone; err != nil {
			t.Errorf("the first that spoke failed: %v", err)
		}
		synctest.Wait()
		say(second)
		if err := <-secondDone; err != nil {
			t.Errorf("the second failed: %v", err)
		}
		stalled, _ := dial()
		say(stalled)
		third, thirdDone := dial()
		say(third)
		time.Sleep(3 * time.Second) // the stalled one's turn is over
		synctest.Wait()
		say(third)
		if err := <-thirdDone; err != nil {
			t.Errorf("behind one that stalled a handshake failed: %v", err)
		}
		h.turns <- struct{}{} // for good
		late, lateDone := dial()
		say(late)
		if err := <-lateDone; !fault.Is(err, fault.Unavailable) {
			t.Errorf("who waited for too long got %v", err)
		}
		<-h.turns
		_ = silent.Close()
		_ = stalled.Close()
		synctest.Wait()
		if len(h.turns) != 0 {
			t.Errorf("%d turns were not given back", len(h.turns))
		}
	})
}
