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

// BenchmarkLeaseBesideBroken leases one notification while so many wait for a
// receiver that is left out, as a broken one is.
func BenchmarkLeaseBesideBroken(b *testing.B) {
	for _, waiting := range []int{0, 10_000} {
		b.Run(fmt.Sprint("waiting-", waiting), func(b *testing.B) {
			s := besideBroken(b, waiting)
			b.ResetTimer()
			for range b.N {
				leaseWell(b, s)
			}
		})
	}
}

// TestLeaseBesideBroken looks for what is due while 10,000 notifications wait
// for a receiver that is left out. That takes about as long as when none waits:
// looking at all of them takes many times as long.
func TestLeaseBesideBroken(t *testing.T) {
	best := func(s *store.Store) time.Duration {
		if due, err := s.Outbox().Lease(t.Context(), 64, time.Hour, "broken"); err != nil || len(due) != 1 {
			t.Fatal(due, err)
		}
		least := time.Hour
		for range 50 { // nothing is left to lease: no wait for the disk is in it
			began := time.Now()
			if due, err := s.Outbox().Lease(t.Context(), 64, time.Hour, "broken"); err != nil || len(due) != 0 {
				t.Fatal(due, err)
			}
			least = min(least, time.Since(began))
		}
		return least
	}
	alone, beside := best(besideBroken(t, 0)), best(besideBroken(t, 10_000))
	t.Logf("lease: %v alone, %v beside 10,000 of a broken receiver", alone, beside)
	if beside > 5*alone {
		t.Errorf("a lease takes %v beside 10,000 of a broken receiver, %v alone", beside, alone)
	}
}

// besideBroken gives a store where so many notifications wait for the receiver
// broken, and behind them one for the receiver well.
func besideBroken(tb testing.TB, waiting int) *store.Store {
	s := open(tb, filepath.Join(tb.TempDir(), "vigil.db"), nil)
	err := s.Update(tb.Context(), func(tx *store.Tx) error {
		for i := range waiting + 1 {
			n := store.Notification{IncidentID: fmt.Sprint("i", i), Receiver: "broken", Created: time.Unix(int64(i+1), 0)}
			if i == waiting {
				n.Receiver = "well"
			}
			incident := &controlv1.Incident{IncidentId: n.IncidentID, Opened: timestamppb.Now()}
			if err := tx.PutIncident(store.IncidentRecord{Incident: incident}); err != nil {
				return err
			}
			if err := tx.InsertNotification(n); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// leaseWell leases the one notification and gives it back.
func leaseWell(tb testing.TB, s *store.Store) {
	tb.Helper()
	due, err := s.Outbox().Lease(tb.Context(), 64, time.Hour, "broken")
	if err != nil || len(due) != 1 || due[0].Receiver != "well" {
		tb.Fatal(due, err)
	}
	if err := s.Outbox().Settle(tb.Context(), alert.Outcome{ID: due[0].ID, Result: alert.PutBack}); err != nil {
		tb.Fatal(err)
	}
}

func processTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
