package journal

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/vigil-ml/vigil/internal/durable"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/metric"
	agentv1 "github.com/vigil-ml/vigil/proto/vigil/agent/v1"
)

// Reasons for which a sample is refused.
const (
	reasonLimit  = "series_limit"
	reasonLabels = "labels"
	reasonSpool  = "spool"
)

// dictionary gives series their numbers. On disk it is a file of records, each
// a SeriesDef; one without a metric only says that numbers up to its own are
// taken. An entry is on stable storage before its number is used.
type dictionary struct {
	fs   durable.FS
	path string
	max  int

	mu   sync.Mutex
	file durable.File
	size int64
	next uint32
	refs map[string]uint32 // by key
	keys map[uint32]string // by number; a definition is made of its key when it is asked for
	key  []byte
}

func openDictionary(fsys durable.FS, path string, limit int, log *slog.Logger) (*dictionary, error) {
	d := &dictionary{
		fs: fsys, path: path, max: limit, next: 1,
		refs: map[string]uint32{}, keys: map[uint32]string{},
	}
	f, err := fsys.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	d.file = f
	if err := fsys.SyncDir(filepath.Dir(path)); err != nil {
		_ = f.Close()
		return nil, err
	}
	damaged, err := d.load()
	if err == nil && damaged > 0 {
		log.Warn("series dictionary is damaged: samples that wait under the lost numbers cannot be named",
			"file", path, "pieces", damaged)
		err = d.mend()
	}
	if err != nil {
		_ = d.file.Close()
		return nil, err
	}
	return d, nil
}

// load reads every entry and counts pieces of damage.
func (d *dictionary) load() (damaged int64, err error) {
	scanner := durable.NewScanner(d.file)
	for {
		ok, err := scanner.Next()
		if err != nil {
			return 0, fmt.Errorf("read %s: %w", d.path, err)
		}
		if !ok {
			break
		}
		def := &agentv1.SeriesDef{}
		if err := proto.Unmarshal(scanner.Payload(), def); err != nil || def.Ref == 0 || def.Ref == ^uint32(0) {
			damaged++
			continue
		}
		d.next = max(d.next, def.Ref+1)
		if def.Metric != "" {
			d.remember(def)
		}
	}
	d.size, err = d.file.Seek(0, io.SeekEnd)
	return damaged + scanner.Skipped(), err
}

// mend writes the file anew without the damage. The lost entries' numbers are
// not known, but each took up some bytes of the file: so many numbers are
// passed over, and an entry says so.
func (d *dictionary) mend() error {
	passed := uint64(d.next) + uint64(d.size/durable.RecordSize(0))
	if passed >= uint64(^uint32(0)) {
		return fault.New(fault.Exhausted, "series numbers are used up: remove %s and the sample spool", d.path)
	}
	d.next = uint32(passed)
	defs := []*agentv1.SeriesDef{{Ref: d.next - 1}}
	for ref, key := range d.keys {
		defs = append(defs, defOf(ref, key))
	}
	data, err := encode(defs)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(d.fs, d.path, data, 0o600); err != nil {
		return err
	}
	f, err := d.fs.OpenFile(d.path, os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_ = d.file.Close()
	d.file, d.size = f, int64(len(data))
	return nil
}

// refusals says which samples got no number.
type refusals struct {
	counts map[string]int
	err    error
}

func (r *refusals) add(reason string, n int, err error) {
	if r.counts == nil {
		r.counts = map[string]int{}
	}
	if r.counts[reason] == 0 {
		r.err = errors.Join(r.err, err) // one of each reason is enough
	}
	r.counts[reason] += n
}

// define gives each sample's series number, 0 where the sample is refused.
func (d *dictionary) define(samples []metric.Sample) ([]uint32, refusals) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var wrong refusals
	var fresh []*agentv1.SeriesDef
	var waiting map[string][]int // indices of samples of fresh series
	refs := make([]uint32, len(samples))
	for i, s := range samples {
		if len(s.Labels) != len(s.Def.Labels) {
			wrong.add(reasonLabels, 1, fault.New(fault.Invalid,
				"sample of %s has labels %q; the dictionary has %q", s.Def.Name, s.Labels, s.Def.Labels))
			continue
		}
		d.key = appendKey(d.key[:0], s.Def.Name, s.Def.Labels, s.Labels)
		if refs[i] = d.refs[string(d.key)]; refs[i] != 0 {
			continue
		}
		key := string(d.key)
		if waiting[key] == nil {
			if len(d.refs)+len(fresh) >= d.max {
				wrong.add(reasonLimit, 1, fault.WithHint(fault.New(fault.Exhausted,
					"series of %s is one more than the %d allowed", s.Def.Name, d.max), "raise max_series"))
				continue
			}
			if waiting == nil {
				waiting = map[string][]int{}
			}
			fresh = append(fresh, newDef(d.next+uint32(len(fresh)), s))
		}
		waiting[key] = append(waiting[key], i)
	}
	if len(fresh) == 0 {
		return refs, wrong
	}
	if err := d.add(fresh); err != nil {
		for _, indices := range waiting {
			wrong.add(reasonSpool, len(indices), err)
		}
		return refs, wrong
	}
	for key, indices := range waiting {
		for _, i := range indices {
			refs[i] = d.refs[key]
		}
	}
	return refs, wrong
}

// add puts entries on stable storage. Their numbers are used up even when it
// fails, because the entries may be in the file all the same.
func (d *dictionary) add(fresh []*agentv1.SeriesDef) error {
	d.next += uint32(len(fresh))
	data, err := encode(fresh)
	if err != nil {
		return err
	}
	if _, err := d.file.Write(data); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", d.path, err), d.undo())
	}
	d.size += int64(len(data))
	if err := d.file.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", d.path, err)
	}
	for _, def := range fresh {
		d.remember(def)
	}
	return nil
}

// undo takes back what a failed write left. Where that fails, the torn end
// stays, and the next opening mends it.
func (d *dictionary) undo() error {
	err := d.file.Truncate(d.size)
	if err == nil {
		return nil
	}
	if end, seekErr := d.file.Seek(0, io.SeekEnd); seekErr == nil {
		d.size = end
	}
	return err
}

func (d *dictionary) remember(def *agentv1.SeriesDef) {
	key := keyOf(def)
	d.keys[def.Ref], d.refs[key] = key, def.Ref
}

func (d *dictionary) defsOf(refs []uint32) []*agentv1.SeriesDef {
	d.mu.Lock()
	defer d.mu.Unlock()
	defs := make([]*agentv1.SeriesDef, 0, len(refs))
	for _, ref := range refs {
		if key, ok := d.keys[ref]; ok {
			defs = append(defs, defOf(ref, key))
		}
	}
	return defs
}

func (d *dictionary) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.file.Close()
}

func newDef(ref uint32, s metric.Sample) *agentv1.SeriesDef {
	labels := make(map[string]string, len(s.Labels))
	for i, name := range s.Def.Labels {
		labels[name] = strings.ToValidUTF8(s.Labels[i], "\ufffd")
	}
	return &agentv1.SeriesDef{Ref: ref, Metric: s.Def.Name, Labels: labels}
}

func encode(defs []*agentv1.SeriesDef) ([]byte, error) {
	var data []byte
	for _, def := range defs {
		payload, err := proto.Marshal(def)
		if err != nil {
			return nil, fmt.Errorf("encode series %s: %w", def.Metric, err)
		}
		data = durable.AppendRecord(data, payload)
	}
	return data, nil
}

// keySeparator cannot stand in valid UTF-8.
const keySeparator = 0xff

// appendKey makes what identifies a series: its metric and its labels sorted
// by name.
func appendKey(key []byte, name string, labels, values []string) []byte {
	key = append(key, name...)
	for at, last := next(labels, ""); at >= 0; at, last = next(labels, last) {
		key = append(append(key, keySeparator), last...)
		key = append(append(key, keySeparator), strings.ToValidUTF8(values[at], "\ufffd")...)
	}
	return key
}

// next finds the label that comes behind another in order of names, or -1.
// There are at most a few.
func next(labels []string, after string) (at int, name string) {
	at = -1
	for i, label := range labels {
		if label > after && (at < 0 || label < name) {
			at, name = i, label
		}
	}
	return at, name
}

func keyOf(def *agentv1.SeriesDef) string {
	names := slices.Collect(maps.Keys(def.Labels))
	values := make([]string, len(names))
	for i, name := range names {
		values[i] = def.Labels[name]
	}
	return string(appendKey(nil, def.Metric, names, values))
}

// defOf is keyOf backwards.
func defOf(ref uint32, key string) *agentv1.SeriesDef {
	parts := strings.Split(key, string([]byte{keySeparator}))
	def := &agentv1.SeriesDef{Ref: ref, Metric: parts[0], Labels: make(map[string]string, len(parts)/2)}
	for i := 1; i+1 < len(parts); i += 2 {
		def.Labels[parts[i]] = parts[i+1]
	}
	return def
}
