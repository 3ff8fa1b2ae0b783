package store_test

import (
	"fmt"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/controlplane/store"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// BenchmarkDeliveries leases and settles notifications, each of an incident of
// its own, as many for one sync as the batch says. It tells how many go through
// a core, a second: CPU time, in which waiting for the disk does not count, and
// the share of the time that passes which is no CPU time at all.
func BenchmarkDeliveries(b *testing.B) {
	for _, batch := range []int{1, 64} {
		b.Run(fmt.Sprint("batch-", batch), func(b *testing.B) {
			s := open(b, filepath.Join(b.TempDir(), "vigil.db"), nil)
			err := s.Update(b.Context(), func(tx *store.Tx) error {
				for i := range b.N {
					incident := &controlv1.Incident{IncidentId: fmt.Sprint("i", i), RunId: "r", Kind: "hang", Opened: timestamppb.Now()}
					if err := tx.PutIncident(store.IncidentRecord{Incident: incident}); err != nil {
						return err
					}
					err := tx.InsertNotification(store.Notification{
						IncidentID: incident.IncidentId, Receiver: "hook", State: controlv1.IncidentState_INCIDENT_STATE_FIRING, Created: time.Now(),
					})
					if err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			cpu, began := processTime(b), time.Now()
			for done := 0; done < b.N; {
				due, err := s.Outbox().Lease(b.Context(), batch, time.Hour)
				if err != nil || len(due) == 0 {
					b.Fatal(len(due), err)
				}
				outcomes := make([]alert.Outcome, len(due))
				for i, d := range due {
					outcomes[i] = alert.Outcome{ID: d.ID, Result: alert.Delivered, At: time.Now()}
				}
				if err := s.Outbox().Settle(b.Context(), outcomes...); err != nil {
					b.Fatal(err)
				}
				done += len(due)
			}
			spent, passed := processTime(b)-cpu, time.Since(began)
			b.ReportMetric(float64(b.N)/spent.Seconds(), "deliveries/cpu-s")
			b.ReportMetric(float64(b.N)/passed.Seconds(), "deliveries/s")
			b.ReportMetric(100*max(0, 1-spent.Seconds()/passed.Seconds()), "%waiting")
		})
	}
}

func processTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
