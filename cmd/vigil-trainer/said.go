package main

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/vigil-ml/vigil/internal/telemetry"
	"github.com/vigil-ml/vigil/internal/version"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	"github.com/vigil-ml/vigil/trainer"
)

const (
	flushTimeout = 2 * time.Second // for spans and logs, at the end

	// Where spans go: https://opentelemetry.io/docs/specs/otel/protocol/exporter.
	// Without it they go to the agent, where it wants them, and so do logs.
	envOTLPEndpoint = "OTEL_EXPORTER_OTLP_ENDPOINT"
)

// said is where the program's spans and logs go.
type said struct {
	tracer trace.Tracer
	logs   slog.Handler
	relay  *telemetry.Relay
	flush  func() // before the session is closed; once
}

// said opens where spans and logs go, and makes the program's log.
func (a *app) said(ctx context.Context) (*said, *slog.Logger, error) {
	s, end, err := a.opened(ctx)
	if err != nil {
		return nil, nil, err
	}
	log, err := a.logger(s.logs)
	s.flush = atLast(ctx, log, end)
	if err != nil {
		s.flush()
		return nil, nil, err
	}
	return s, log, nil
}

// opened gives also what ends it.
func (a *app) opened(ctx context.Context) (*said, func(context.Context) error, error) {
	endpoint := os.Getenv(envOTLPEndpoint)
	if endpoint == "" && a.socket != "" {
		return a.saidToAgent(ctx)
	}
	address, plaintext := strings.CutPrefix(endpoint, "http://")
	address = strings.TrimSuffix(strings.TrimPrefix(address, "https://"), "/")
	tracer, shutdown, err := telemetry.Tracer(ctx, telemetry.TraceConfig{OTLPEndpoint: address, Plaintext: plaintext}, program)
	if err != nil {
		return nil, nil, err
	}
	return &said{tracer: tracer}, shutdown, nil
}

func (a *app) saidToAgent(ctx context.Context) (*said, func(context.Context) error, error) {
	relay, err := telemetry.NewRelay(nil)
	if err != nil {
		return nil, nil, err
	}
	provided, err := telemetry.Provide(ctx, telemetry.Who{Program: program, Version: version.String()},
		telemetry.Wanted{Traces: true, Logs: true}, relay)
	if err != nil {
		return nil, nil, err
	}
	return &said{tracer: provided.Tracer, logs: provided.Logs, relay: relay}, provided.Close, nil
}

// through hands on what is said through a session.
func (s *said) through(session *trainer.Session) {
	if s.relay == nil {
		return
	}
	s.relay.Attach(func(_ context.Context, t *commonv1.Telemetry) error {
		session.Telemetry(t)
		return nil
	})
}

// atLast flushes once. What cannot be handed on then is lost, and it is said:
// training does not wait for it.
func atLast(ctx context.Context, log *slog.Logger, end func(context.Context) error) func() {
	return sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
		defer cancel()
		if err := end(ctx); err != nil {
			log.Warn("the last spans and logs are lost", "cause", err)
		}
	})
}
