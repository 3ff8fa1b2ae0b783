package demo

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// moment is one line of what happened after the strike.
type moment struct {
	at   time.Time
	what string
	text string
}

func (c *chapter) note(at time.Time, what, text string) {
	c.moments = append(c.moments, moment{at, what, text})
}

// show prints what happened since the strike, in the order in which it did: it
// all takes less time than a line takes to read.
func (c *chapter) show(ctx context.Context) error {
	if err := c.incident(ctx); err != nil {
		return err
	}
	slices.SortStableFunc(c.moments, func(a, b moment) int { return a.at.Compare(b.at) })
	_, _ = fmt.Fprintln(c.w)
	for _, m := range c.moments {
		_, _ = fmt.Fprintf(c.w, "  %+9.1f ms  %-9s  %s\n", c.ms(m.at), m.what, m.text)
	}
	_, _ = fmt.Fprintln(c.w)
	return nil
}

// incident reads what the control plane made of the strike and when the
// receivers were told.
func (c *chapter) incident(ctx context.Context) error {
	client := controlv1.NewIncidentServiceClient(c.stage.Conn())
	list, err := client.ListIncidents(ctx, &controlv1.ListIncidentsRequest{RunId: c.run})
	if err != nil {
		return fmt.Errorf("list incidents of %s: %w", c.run, fault.FromGRPC(err))
	}
	at := slices.IndexFunc(list.Incidents, func(i *controlv1.Incident) bool { return i.Kind == "nonfinite" })
	if at < 0 {
		return fault.New(fault.Internal, "read the incident of %s: there is none for the NaN", c.run)
	}
	got, err := client.GetIncident(ctx, &controlv1.GetIncidentRequest{IncidentId: list.Incidents[at].IncidentId})
	if err != nil {
		return fmt.Errorf("read the incident of %s: %w", c.run, fault.FromGRPC(err))
	}
	return c.told(ctx, got.Incident)
}

// told notes the finding, the incident and the notifications.
func (c *chapter) told(ctx context.Context, i *controlv1.Incident) error {
	if len(i.Findings) == 0 {
		return fault.New(fault.Internal, "read the incident of %s: it has no finding", c.run)
	}
	finding := i.Findings[0]
	c.sum.IncidentID = i.IncidentId
	c.sum.DetectMS = c.ms(finding.Created.AsTime())
	c.sum.IncidentMS = c.ms(i.Opened.AsTime())
	c.note(finding.Created.AsTime(), "detected", fmt.Sprintf("%s at step %s on rank %d, node %s", finding.Kind, thousands(finding.OnsetStep), finding.Rank, finding.Node))
	c.note(i.Opened.AsTime(), "incident", i.IncidentId+" opened, an emergency checkpoint commanded")
	receipts, err := c.stage.receiver.await(ctx, c.struck, "/slack", "/webhook")
	if err != nil {
		return fmt.Errorf("wait for the notifications of %s: %w", i.IncidentId, err)
	}
	for path, r := range receipts {
		c.sum.NotifyMS = max(c.sum.NotifyMS, c.ms(r.at))
		c.note(r.at, "notified", fmt.Sprintf("%s answered 200 to %d bytes", path[1:], len(r.body)))
	}
	return nil
}

// thousands writes 12345 as 12,345.
func thousands(n int64) string {
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
