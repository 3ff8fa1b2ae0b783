package api

import (
	"context"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/vigil-ml/vigil/controlplane/export"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const hintExporters = "agentctl exports ls lists the exporters"

// Exports is the exporters; controlplane/export has them.
type Exports interface {
	// Statuses gives how every exporter is.
	Statuses(ctx context.Context) ([]export.Status, error)
	// Replay sends an exporter's dead letters once more.
	Replay(ctx context.Context, name string) (export.Replayed, error)
}

// exports is the ExportService.
type exports struct {
	controlv1.UnimplementedExportServiceServer
	exports Exports
}

// ListExporters lists the exporters and how they are.
func (s *exports) ListExporters(ctx context.Context, _ *controlv1.ListExportersRequest) (*controlv1.ListExportersResponse, error) {
	statuses, err := s.exports.Statuses(ctx)
	if err != nil {
		return nil, err
	}
	out := &controlv1.ListExportersResponse{}
	for _, e := range statuses {
		out.Exporters = append(out.Exporters, &controlv1.Exporter{
			Name: e.Name, Kind: e.Kind, Error: e.Failing, Since: timestampOf(e.Since), Lag: durationpb.New(e.Lag),
			DeadLetters: int64(e.Dead), DeadLetterBytes: e.DeadBytes, Cursors: e.Cursors,
		})
	}
	return out, nil
}

// ReplayExports sends an exporter's dead letters once more.
func (s *exports) ReplayExports(ctx context.Context, in *controlv1.ReplayExportsRequest) (*controlv1.ReplayExportsResponse, error) {
	if err := required("name", in.Name, hintExporters); err != nil {
		return nil, err
	}
	done, err := s.exports.Replay(ctx, in.Name)
	if fault.Is(err, fault.NotFound) {
		return nil, fault.WithHint(err, hintExporters)
	}
	if err != nil {
		return nil, err
	}
	return &controlv1.ReplayExportsResponse{Taken: int64(done.Taken), Refused: int64(done.Refused)}, nil
}
