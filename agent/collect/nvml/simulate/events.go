//go:build cgo && linux && !nonvml

package simulate

import (
	"sync"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
)

// eventSet gives the script's XID errors from its making on.
type eventSet struct {
	mock.EventSet // what is not called panics
	lib           *Library

	mu         sync.Mutex
	registered map[*device]bool
	after      time.Duration
	waiting    []nvml.EventData
}

// EventSetCreate makes an event set.
func (l *Library) EventSetCreate() (nvml.EventSet, nvml.Return) {
	return &eventSet{lib: l, registered: map[*device]bool{}, after: l.now()}, nvml.SUCCESS
}

// Free frees the event set.
func (s *eventSet) Free() nvml.Return { return nvml.SUCCESS }

// RegisterEvents has the GPU's events go to a set.
func (d *device) RegisterEvents(mask uint64, set nvml.EventSet) nvml.Return {
	if ret := d.enter(); ret != nvml.SUCCESS {
		return ret
	}
	s, ok := set.(*eventSet)
	if !ok || mask != nvml.EventTypeXidCriticalError {
		return nvml.ERROR_INVALID_ARGUMENT
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.registered[d] = true
	return nvml.SUCCESS
}

// Wait waits for one event.
func (s *eventSet) Wait(milliseconds uint32) (nvml.EventData, nvml.Return) {
	deadline := s.lib.now() + time.Duration(milliseconds)*time.Millisecond
	for {
		if event, ok := s.take(); ok {
			return event, nvml.SUCCESS
		}
		s.mu.Lock()
		events, at := s.lib.script.NextXIDs(s.after)
		s.mu.Unlock()
		wait := deadline - s.lib.now()
		if len(events) > 0 {
			wait = min(wait, at-s.lib.now())
		}
		if wait > 0 {
			time.Sleep(wait)
			continue
		}
		if len(events) == 0 || at > s.lib.now() {
			return nvml.EventData{}, nvml.ERROR_TIMEOUT
		}
		s.gather()
	}
}

// take takes an event that waits.
func (s *eventSet) take() (event nvml.EventData, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) == 0 {
		return event, false
	}
	event = s.waiting[0]
	s.waiting = s.waiting[1:]
	return event, true
}

// gather takes the script's next XIDs, one for each GPU that they hit.
func (s *eventSet) gather() {
	s.mu.Lock()
	defer s.mu.Unlock()
	events, at := s.lib.script.NextXIDs(s.after)
	s.after = at
	for _, e := range events {
		for _, d := range s.lib.devices {
			if e.Hits(d.index) && s.registered[d] {
				s.waiting = append(s.waiting, nvml.EventData{
					Device: d, EventType: nvml.EventTypeXidCriticalError, EventData: uint64(e.XID),
				})
			}
		}
	}
}
