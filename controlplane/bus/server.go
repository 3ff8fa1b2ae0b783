package bus

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/vigil-ml/vigil/internal/durable"
)

const (
	readyTimeout = 30 * time.Second
	// consumersMemoryBytes bounds what JetStream keeps in memory for the state
	// of readers.
	consumersMemoryBytes = 64 << 20
	// storeSlackBytes is what the stream's files may exceed its bound by while
	// old blocks are being deleted.
	storeSlackBytes = 256 << 20
)

// startServer starts NATS inside this process: no port, no signal handlers.
func startServer(config Config, log *slog.Logger) (*server.Server, error) {
	options := &server.Options{
		ServerName:             "vigil",
		DontListen:             true,
		NoSigs:                 true,
		MaxPayload:             maxPayloadBytes,
		JetStream:              true,
		StoreDir:               config.Dir,
		JetStreamMaxMemory:     consumersMemoryBytes,
		JetStreamMaxStore:      config.MaxBytes + storeSlackBytes,
		DisableJetStreamBanner: true,
		SyncInterval:           config.SyncInterval, // for SyncAlways there is a syncer besides
	}
	srv, err := server.NewServer(options)
	if err != nil {
		return nil, fmt.Errorf("configure embedded NATS: %w", err)
	}
	natsLog := &serverLog{log: log.With("part", "nats")}
	srv.SetLoggerV2(natsLog, false, false, false)
	srv.Start()
	if !srv.ReadyForConnections(readyTimeout) || !srv.JetStreamEnabled() {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil, fmt.Errorf("start embedded NATS: %s", natsLog.lastError())
	}
	return srv, nil
}

// lock keeps a second process out: NATS itself does not, and two of them
// damage the stream.
func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return durable.Lock(filepath.Join(dir, "LOCK"), "the bus")
}

// serverLog is NATS' logger. Its notices are chatter about start and stop.
type serverLog struct {
	log  *slog.Logger
	mu   sync.Mutex
	last string
}

func (l *serverLog) Noticef(format string, args ...any) { l.log.Debug(fmt.Sprintf(format, args...)) }
func (l *serverLog) Debugf(format string, args ...any)  { l.log.Debug(fmt.Sprintf(format, args...)) }
func (l *serverLog) Tracef(format string, args ...any)  { l.log.Debug(fmt.Sprintf(format, args...)) }
func (l *serverLog) Warnf(format string, args ...any)   { l.log.Warn(fmt.Sprintf(format, args...)) }
func (l *serverLog) Errorf(format string, args ...any)  { l.fail(fmt.Sprintf(format, args...)) }

// Fatalf does not end the process: whoever opens the bus gets the text.
func (l *serverLog) Fatalf(format string, args ...any) { l.fail(fmt.Sprintf(format, args...)) }

func (l *serverLog) fail(text string) {
	l.mu.Lock()
	l.last = text
	l.mu.Unlock()
	l.log.Error(text)
}

func (l *serverLog) lastError() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == "" {
		return "it was not ready in " + readyTimeout.String()
	}
	return l.last
}
