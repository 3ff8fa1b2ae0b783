//go:build cgo && linux && !nonvml

package measure

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/vigil-ml/vigil/agent/collect/nvml/wire"
	"github.com/vigil-ml/vigil/internal/life"
)

const (
	// eventWait is how long NVML waits for an event before it looks up.
	eventWait = 5 * time.Second
	// eventAgain is how long events rest after they failed.
	eventAgain = 30 * time.Second
)

// Events tells of XID errors until ctx ends. What comes on spare, first when
// the library is open, is the GPUs to leave alone since they do not answer.
func Events(ctx context.Context, lib nvml.Interface, spare <-chan []int, send func(wire.Message)) error {
	l := listener{lib: lib, changes: spare, send: send}
	select {
	case <-ctx.Done():
		return nil
	case l.spare = <-spare:
	}
	for ctx.Err() == nil {
		supported, err := l.listen(ctx)
		switch {
		case !supported:
			<-ctx.Done()
		case err != nil: // the collections say it too
			life.Sleep(ctx, eventAgain)
		}
	}
	return nil
}

type listener struct {
	lib     nvml.Interface
	spare   []int
	changes <-chan []int
	send    func(wire.Message)
}

// listen makes an event set of all GPUs that have one and waits for events
// until something fails or the GPUs to spare are others.
func (l *listener) listen(ctx context.Context) (supported bool, err error) {
	set, ret := l.lib.EventSetCreate()
	if ret != nvml.SUCCESS {
		return !absent(ret), fmt.Errorf("make event set: %w", ret)
	}
	defer set.Free()
	count, ret := l.lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return true, fmt.Errorf("count GPUs: %w", ret)
	}
	known := map[nvml.Device]*wire.XID{}
	for i := range count {
		if slices.Contains(l.spare, i) {
			continue
		}
		device, ret := l.lib.DeviceGetHandleByIndex(i)
		if ret != nvml.SUCCESS || device.RegisterEvents(nvml.EventTypeXidCriticalError, set) != nvml.SUCCESS {
			continue
		}
		info, _ := device.GetPciInfo()
		known[device] = &wire.XID{GPU: i, PCI: busID(info)}
	}
	if len(known) == 0 && len(l.spare) == 0 {
		return false, nil
	}
	for ctx.Err() == nil {
		select {
		case l.spare = <-l.changes:
			return true, nil // listen again, to others
		default:
		}
		event, ret := set.Wait(uint32(eventWait.Milliseconds()))
		switch {
		case ret == nvml.ERROR_TIMEOUT:
		case ret != nvml.SUCCESS:
			return true, fmt.Errorf("wait for events: %w", ret)
		case event.EventType == nvml.EventTypeXidCriticalError:
			xid := wire.XID{GPU: wire.Library}
			if device := known[event.Device]; device != nil {
				xid = *device
			}
			xid.Number = int32(event.EventData)
			l.send(&xid)
		}
	}
	return true, nil
}
