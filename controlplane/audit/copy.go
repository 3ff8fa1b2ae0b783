package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vigil-ml/vigil/controlplane/audit/trail"
	"github.com/vigil-ml/vigil/controlplane/store"
	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
)

const (
	copyName       = "audit.jsonl"
	checkpointName = "checkpoint"
	copyBatch      = 1000
)

// directory is a copy of the log in a directory: all of it in one file, to which
// is only ever added, and the last signed head beside it.
type directory struct {
	path   string
	public string
	unlock func()
	file   *os.File
	next   uint64      // place of the record that follows
	last   trail.Entry // the last that is there, when next > 0
}

// openDirectory opens a copy and finds where it ends. A line that was being
// written when the machine stopped is taken off.
func openDirectory(path, public string) (_ *directory, err error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of audit copy: %w", err)
	}
	unlock, err := durable.Lock(filepath.Join(path, "lock"), "the audit copy")
	if err != nil {
		return nil, err
	}
	d := &directory{path: path, public: public, unlock: unlock}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open audit copy %s: %w", path, err), d.close())
		}
	}()
	if d.file, err = os.OpenFile(filepath.Join(path, copyName), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600); err != nil {
		return nil, err
	}
	if err := d.cutTorn(); err != nil {
		return nil, err
	}
	return d, d.scan()
}

// cutTorn takes off what stands behind the last whole line.
func (d *directory) cutTorn() error {
	info, err := d.file.Stat()
	if err != nil {
		return err
	}
	end, block := info.Size(), make([]byte, 4096)
	for end > 0 {
		from := max(0, end-int64(len(block)))
		n, err := d.file.ReadAt(block[:end-from], from)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if at := bytes.LastIndexByte(block[:n], '\n'); at >= 0 {
			end = from + int64(at) + 1
			break
		}
		end = from
	}
	if end == info.Size() {
		return nil
	}
	return d.file.Truncate(end)
}

// scan reads the copy to its end, or begins one.
func (d *directory) scan() error {
	r, err := trail.NewReader(io.NewSectionReader(d.file, 0, 1<<62))
	if info, statErr := d.file.Stat(); statErr == nil && info.Size() == 0 {
		header, err := trail.AppendHeader(nil, trail.Header{Version: 1, Key: d.public})
		if err != nil {
			return err
		}
		return d.write(header)
	}
	if err != nil {
		return err
	}
	if r.Header.Key != d.public {
		return fault.WithHint(fault.New(fault.Precondition, "it is a copy of another log, of key %s", r.Header.Key),
			"give the log's own key back (audit.key_file), or name another directory in audit.copies")
	}
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if e.Seq != d.next {
			return fault.New(fault.Corrupt, "line %d has record %d; want %d", r.Line(), e.Seq, d.next)
		}
		d.last, d.next = e, d.next+1
	}
}

func (d *directory) write(text []byte) error {
	if _, err := d.file.Write(text); err != nil {
		return err
	}
	return d.file.Sync()
}

// end gives the place behind the last record, and that record.
func (d *directory) end() (next uint64, last trail.Entry) { return d.next, d.last }

// add writes entries, which follow those that are there.
func (d *directory) add(_ context.Context, entries []trail.Entry) error {
	var text []byte
	for _, e := range entries {
		text = trail.AppendEntry(text, e)
	}
	if err := d.write(text); err != nil {
		return fmt.Errorf("write audit copy %s: %w", d.path, err)
	}
	d.last = entries[len(entries)-1]
	d.next = d.last.Seq + 1
	return nil
}

// mark writes the signed head.
func (d *directory) mark(_ context.Context, note string) error {
	return durable.WriteFile(durable.OS{}, filepath.Join(d.path, checkpointName), []byte(note), 0o600)
}

func (d *directory) close() error {
	defer d.unlock()
	if d.file == nil {
		return nil
	}
	return d.file.Close()
}

// CopyFiles gives the file with the records of a copy, and its checkpoint, "" if
// there is none. The path may be the copy's directory or the file itself.
func CopyFiles(path string) (records, checkpoint string, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", "", fmt.Errorf("find audit copy: %w", err)
	}
	if !info.IsDir() {
		return path, "", nil
	}
	text, err := os.ReadFile(filepath.Join(path, checkpointName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", "", fmt.Errorf("read checkpoint: %w", err)
	}
	return filepath.Join(path, copyName), string(text), nil
}

// entries gives the records from a place on. The one before must be the last
// that the copy has.
func (l *Log) entries(ctx context.Context, from uint64, limit int, last trail.Entry) (entries []trail.Entry, err error) {
	err = l.deps.Store.View(ctx, func(tx *store.Tx) error {
		size, err := tx.AuditSize()
		if err != nil {
			return err
		}
		if from > size {
			return fault.New(fault.Corrupt, "the copy has %d records and the log %d: the log was cut off", from, size)
		}
		if from > 0 {
			before, err := l.read(tx, store.AuditQuery{From: from - 1, Limit: 1})
			if err != nil {
				return err
			}
			if len(before) != 1 || before[0].Leaf != last.Leaf || before[0].Signature != last.Signature {
				return fault.New(fault.Corrupt, "record %d of the copy is another than the log's: the log was changed", from-1)
			}
		}
		entries, err = l.read(tx, store.AuditQuery{From: from, Limit: limit})
		return err
	})
	return entries, err
}

// noteAt gives the signed head behind a record.
func (l *Log) noteAt(ctx context.Context, e trail.Entry) (note string, err error) {
	err = l.deps.Store.View(ctx, func(tx *store.Tx) error {
		tree, err := frontier(tx, e.Seq+1)
		note = trail.Checkpoint{Origin: l.signer.Name(), Size: e.Seq + 1, Root: tree.Root()}.Note(e.Signature)
		return err
	})
	return note, err
}

// Export writes a copy of the whole log as it is now.
func (l *Log) Export(ctx context.Context, write func([]byte) error) error {
	text, err := trail.AppendHeader(nil, trail.Header{Version: 1, Key: l.public})
	if err != nil {
		return err
	}
	var last trail.Entry
	for from := uint64(0); ; from = last.Seq + 1 {
		entries, err := l.entries(ctx, from, copyBatch, last)
		if err != nil {
			return err
		}
		for _, e := range entries {
			text = trail.AppendEntry(text, e)
			last = e
		}
		if err := write(text); err != nil || len(entries) < copyBatch {
			return err
		}
		text = text[:0]
	}
}
