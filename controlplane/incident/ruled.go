package incident

import (
	"context"
	"fmt"
	"math"
	"strconv"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/controlplane/store"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Ruled is an alert of a rule of the site's own.
type Ruled struct {
	External
	Value float64 // of the rule's expression
}

// Ruled takes in alerts of rules. Each is taken as an external alert is, and
// when it begins to fire there is a finding of it too, which is part of its
// incident: what a rule of the site's own found is looked up, judged and exported
// as what a detector did.
func (e *Engine) Ruled(ctx context.Context, tx *store.Tx, alerts ...Ruled) error {
	all := make([]External, len(alerts))
	was := make([]bool, len(alerts))
	fingerprints := make([]string, len(alerts))
	for n, a := range alerts {
		all[n], fingerprints[n] = a.External, alert.Fingerprint(a.Labels)
	}
	if err := tx.LookForExternal(fingerprints...); err != nil {
		return err
	}
	for n, fingerprint := range fingerprints {
		record, found, err := tx.ExternalIncident(fingerprint)
		if err != nil {
			return err
		}
		was[n] = found && record.Incident.GetState() != resolved
	}
	if err := e.Externals(ctx, tx, all...); err != nil {
		return err
	}
	for n, a := range alerts {
		record, found, err := tx.ExternalIncident(fingerprints[n])
		if err != nil {
			return err
		}
		if !found || was[n] || record.Incident.GetState() == resolved {
			continue
		}
		if err := e.putRuled(tx, a, record); err != nil {
			return err
		}
	}
	return nil
}

// putRuled writes the finding of an alert that began to fire.
func (e *Engine) putRuled(tx *store.Tx, a Ruled, record store.IncidentRecord) error {
	i, now := record.Incident, e.deps.Clock()
	f := &controlv1.Finding{
		FindingId: fmt.Sprintf("f-%s-%d", i.GetIncidentId(), record.Occurrences),
		RunId:     i.GetRunId(), Kind: i.GetKind(), Severity: i.GetSeverity(), Node: a.Labels[alert.LabelNode],
		Summary: a.summary(), EventTime: timestamppb.New(a.Starts), Created: timestamppb.New(now), BlameUnknown: true,
	}
	if rank, err := strconv.ParseUint(a.Labels[alert.LabelRank], 10, 32); err == nil {
		f.Rank, f.BlameUnknown = uint32(rank), false
	}
	if !math.IsNaN(a.Value) && !math.IsInf(a.Value, 0) {
		f.Evidence = map[string]float64{"value": a.Value}
	}
	if _, err := tx.PutFinding(f); err != nil {
		return err
	}
	return tx.AttachFinding(i.GetIncidentId(), f.GetFindingId())
}
