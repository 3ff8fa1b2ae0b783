// Package export hands what Vigil knows to systems outside: events, logs and
// spans of trainers and nodes as the bus has them, and findings, incidents, audit
// records and what control planes say of themselves as the store does.
//
// An exporter takes batches of documents and says of each what became of it.
// Everything else is here: a [Runner] has a cursor of its own for each source in
// the store, moves it when a batch is settled, tries again what was not taken,
// and puts what cannot be taken, or was tried for too long, into a bounded file
// of dead letters that can be replayed. An exporter that fails holds up nobody
// but itself: the bus and the store keep what it has not had yet.
package export

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"
)

// Streams of documents.
const (
	StreamEvents    = "events"    // what trainers and nodes say
	StreamFindings  = "findings"  // what detectors say
	StreamIncidents = "incidents" // each state of each incident
	StreamAudit     = "audit"     // each record of the audit log
	StreamLogs      = "logs"      // what trainers, agents and control planes log
	StreamTraces    = "traces"    // their spans
	StreamMetrics   = "metrics"   // the control planes' metrics about themselves
)

// Streams are all streams, in the order in which they are shown.
func Streams() []string {
	return []string{StreamEvents, StreamFindings, StreamIncidents, StreamAudit, StreamLogs, StreamTraces, StreamMetrics}
}

// Document is one thing to be kept elsewhere.
type Document struct {
	// Stream is one of [Streams].
	Stream string
	// ID is the same for the same document whenever it is made; unique within
	// its stream.
	ID string
	// Time is when it happened.
	Time time.Time
	// Received is when the control plane had it.
	Received time.Time
	// Fields are in the words of the Elastic Common Schema; what that has no
	// word for is below "vigil".
	Fields map[string]any
	// OTLP is the same as OpenTelemetry has it, for what came in that form: a
	// ResourceSpans, ResourceLogs or ResourceMetrics. Nil for what did not. What
	// documents of one batch have in common, they share.
	OTLP proto.Message
	// Uncertain tells that an earlier try ended without an answer, or may have:
	// the other side may have it.
	Uncertain bool
}

// Outcome is what became of a document.
type Outcome int

// The outcomes.
const (
	Taken    Outcome = iota // it is there
	Repeated                // it was there already
	Deferred                // not now: try again
	Refused                 // it will never be taken as it is
)

// String is the outcome as metrics have it.
func (o Outcome) String() string {
	return [...]string{"taken", "repeated", "deferred", "refused"}[o]
}

// Verdict is an outcome with what was said, for Deferred and Refused.
type Verdict struct {
	Outcome Outcome
	Reason  string
}

// Exporter hands documents over to one system outside. Its methods are called by
// one goroutine for each source.
type Exporter interface {
	// Streams are those that it takes.
	Streams() []string
	// Export hands documents over and gives a verdict for each, in their order.
	// With an error nothing is known of any: all are tried again, as uncertain
	// ones. It ends soon after ctx does.
	Export(ctx context.Context, documents []Document) ([]Verdict, error)
	// Close lets go of connections. Nothing is called after it.
	Close() error
}

// Deps is what an exporter is given.
type Deps struct {
	// Name is the exporter's name in the configuration.
	Name string
	// Version is that of this program.
	Version string
	Log     *slog.Logger
	Clock   func() time.Time
}
