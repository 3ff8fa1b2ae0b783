package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
)

// state is what a spool remembers beside its segments.
type state struct {
	epoch        uint64
	acknowledged Position
}

const stateBytes = 24

func statePath(dir string) string { return filepath.Join(dir, "state") }

// readState reads the state file; damaged is true when there is one that
// cannot be read.
func readState(dir string) (st state, damaged bool, err error) {
	data, err := os.ReadFile(statePath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, false, nil
	}
	if err != nil {
		return state{}, false, fmt.Errorf("read spool state: %w", err)
	}
	scanner := durable.NewScanner(bytes.NewReader(data))
	ok, err := scanner.Next()
	if err != nil || !ok || len(scanner.Payload()) != stateBytes {
		return state{}, true, err
	}
	at := func(i int) uint64 { return binary.LittleEndian.Uint64(scanner.Payload()[8*i:]) }
	return state{epoch: at(0), acknowledged: Position{at(1), at(2)}}, false, nil
}

func writeState(fsys durable.FS, dir string, st state) error {
	payload := make([]byte, 0, stateBytes)
	for _, n := range []uint64{st.epoch, st.acknowledged.Epoch, st.acknowledged.Sequence} {
		payload = binary.LittleEndian.AppendUint64(payload, n)
	}
	if err := durable.WriteFile(fsys, statePath(dir), durable.AppendRecord(nil, payload), 0o600); err != nil {
		return diskFull(dir, err)
	}
	return nil
}

// lockDir keeps a second process out; the lock goes with the process.
func lockDir(dir string) (unlock func(), err error) {
	unlock, err = durable.Lock(filepath.Join(dir, "lock"), "the spool")
	if err != nil {
		return nil, diskFull(dir, err)
	}
	return unlock, nil
}

// diskFull gives an error that comes of a full disk its kind and a hint; another
// stays as it is.
func diskFull(dir string, err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fault.WithHint(fault.New(fault.Exhausted, "the agent's disk is full at %s: %w", dir, err),
			"free space on the file system of "+dir+", or lower the spool's max_bytes")
	}
	return err
}
