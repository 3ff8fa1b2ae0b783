package api

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/controlplane/retain"
	"github.com/vigil-ml/vigil/internal/protocol"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// system is the SystemService.
type system struct {
	controlv1.UnimplementedSystemServiceServer
	version   string
	listeners map[string]string
	started   time.Time
	kept      []retain.Kept
}

// GetStatus says what the control plane is and where it listens.
func (s *system) GetStatus(context.Context, *controlv1.GetStatusRequest) (*controlv1.GetStatusResponse, error) {
	var kept []*controlv1.Retention
	for _, k := range s.kept {
		r := &controlv1.Retention{Records: k.Records}
		if k.For != 0 {
			r.KeptFor = durationpb.New(k.For)
		}
		kept = append(kept, r)
	}
	return &controlv1.GetStatusResponse{
		Retention:     kept,
		Version:       s.version,
		AgentRevision: protocol.Revision,
		Listeners:     s.listeners,
		Started:       timestamppb.New(s.started),
	}, nil
}
