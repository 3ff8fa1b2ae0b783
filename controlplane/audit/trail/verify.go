package trail

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/vigil-ml/vigil/internal/fault"
)

// ActionLetGo is the action of the record that says which records were let go
// of; its detail "ranges" lists them, such as "0-99,120".
const ActionLetGo = "audit/let-go"

// Bad is where a copy is wrong.
type Bad struct {
	Index uint64 // of the first record that is not as it was
	Line  int    // of the copy; 0 when it is what is missing
	Why   string
}

// Error says it in one sentence.
func (b *Bad) Error() string { return fmt.Sprintf("record %d: %s", b.Index, b.Why) }

// Report is what a copy was found to be.
type Report struct {
	Origin      string
	Records     uint64 // that were checked, those let go of included
	LetGo       uint64
	First, Last string // times of the first and the last record
	Head        Checkpoint
	Checkpoint  string // the signed head, to be kept elsewhere
	Bad         *Bad   // nil: everything is as it was
}

// Options is what a copy is checked against.
type Options struct {
	// Key is the log's public key, from a source other than the copy. Empty
	// takes the copy's own word, which shows accidents but not a forger with a
	// key of his own.
	Key string
	// Checkpoints are signed heads of this log that were kept elsewhere.
	Checkpoints []string
	// Copy is a second copy, kept elsewhere; nil without one.
	Copy io.Reader
	// See is called for each record that is good, in order; may be nil.
	See func(*Record)
}

// verifier goes through a copy.
type verifier struct {
	key    note.Verifier
	kept   map[uint64]Checkpoint
	most   uint64 // size of the largest checkpoint that is kept
	tree   Frontier
	report Report
	gone   ranges // let go of, as lines say
	said   ranges // let go of, as records say
	lastOK string // signature of the last good entry
	other  *Reader
	see    func(*Record)
}

// Verify checks a whole copy, from the log's first record on. The error says
// why nothing could be checked; what is wrong with the records is the report's
// Bad, always the first that is.
func Verify(in io.Reader, options Options) (Report, error) {
	r, err := NewReader(in)
	if err != nil {
		return Report{}, err
	}
	v, err := newVerifier(r.Header, options)
	if err != nil {
		return Report{}, err
	}
	v.report.Bad, err = v.run(r)
	if v.report.Records > 0 {
		v.report.Head = Checkpoint{v.key.Name(), v.tree.Size(), v.tree.Root()}
		v.report.Checkpoint = v.report.Head.Note(v.lastOK)
	}
	return v.report, err
}

func newVerifier(header Header, options Options) (*verifier, error) {
	if options.Key == "" {
		options.Key = header.Key
	}
	key, err := OpenKey(options.Key)
	if err != nil {
		return nil, err
	}
	v := &verifier{key: key, kept: map[uint64]Checkpoint{}, see: options.See}
	v.report.Origin = key.Name()
	if options.Key != header.Key {
		return nil, fault.New(fault.Corrupt, "the copy is of key %s, not of %s", header.Key, options.Key)
	}
	if header.First != 0 {
		return nil, fault.WithHint(fault.New(fault.Precondition, "the copy begins at record %d", header.First), "give all parts of the copy, from record 0 on")
	}
	for _, text := range options.Checkpoints {
		c, err := OpenCheckpoint(key, text)
		if err != nil {
			return nil, err
		}
		if other, ok := v.kept[c.Size]; ok && other.Root != c.Root {
			return nil, fault.New(fault.Corrupt, "two checkpoints of size %d differ: the log has two histories", c.Size)
		}
		v.kept[c.Size], v.most = c, max(v.most, c.Size)
	}
	if options.Copy != nil {
		if v.other, err = NewReader(options.Copy); err != nil {
			return nil, fmt.Errorf("read the second copy: %w", err)
		}
	}
	return v, nil
}

func (v *verifier) run(r *Reader) (*Bad, error) {
	for {
		e, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			return v.end()
		case fault.Is(err, fault.Corrupt):
			return &Bad{v.tree.Size(), r.Line(), err.Error()}, nil
		case err != nil:
			return nil, fmt.Errorf("read audit copy: %w", err)
		}
		if why, err := v.entry(e); err != nil || why != "" {
			return &Bad{v.tree.Size(), r.Line(), why}, err
		}
	}
}

// entry takes one entry and says what is wrong with it. Only a good one enters
// the tree.
func (v *verifier) entry(e Entry) (why string, err error) {
	n := v.tree.Size()
	if e.Seq != n {
		return fmt.Sprintf("here stands the record of place %d", e.Seq), nil
	}
	tree := v.tree.Clone()
	tree.Append(e.Leaf)
	head := Checkpoint{v.key.Name(), n + 1, tree.Root()}
	if !signed(v.key, head, e.Signature) {
		return "it is not what the log signed, or its signature was changed", nil
	}
	if kept, ok := v.kept[n+1]; ok && kept.Root != head.Root {
		return "up to here the log is another than the one of the checkpoint that was kept", nil
	}
	if why, err = v.compare(e); why != "" || err != nil {
		return why, err
	}
	if e.Record == nil {
		v.gone.add(n)
		v.report.LetGo++
	} else if err := v.record(e.Record); err != nil {
		return "", err
	}
	v.tree, v.lastOK = tree, e.Signature
	v.report.Records++
	return "", nil
}

func (v *verifier) record(text []byte) error {
	var r Record
	if err := json.Unmarshal(text, &r); err != nil {
		return fmt.Errorf("read audit record: %w", err)
	}
	if r.Action == ActionLetGo {
		for part := range strings.SplitSeq(r.Detail["ranges"], ",") {
			v.said.parse(part)
		}
	}
	if v.report.First == "" {
		v.report.First = r.Time
	}
	v.report.Last = r.Time
	if v.see != nil {
		v.see(&r)
	}
	return nil
}

// compare holds an entry against the second copy, which may be behind.
func (v *verifier) compare(e Entry) (why string, err error) {
	if v.other == nil {
		return "", nil
	}
	o, err := v.other.Next()
	switch {
	case errors.Is(err, io.EOF):
		v.other = nil
		return "", nil
	case err != nil:
		return "", fmt.Errorf("read the second copy: %w", err)
	case o.Seq != e.Seq || o.Leaf != e.Leaf:
		return "the second copy has another record here", nil
	}
	return "", nil
}

// end says what is missing behind the last record.
func (v *verifier) end() (*Bad, error) {
	size := v.tree.Size()
	if size < v.most {
		return &Bad{size, 0, fmt.Sprintf("it is missing: the copy ends here, and a checkpoint of %d records was kept", v.most)}, nil
	}
	if v.other != nil {
		switch _, err := v.other.Next(); {
		case err == nil:
			return &Bad{size, 0, "it is missing: the copy ends here, and the second copy goes on"}, nil
		case !errors.Is(err, io.EOF):
			return nil, fmt.Errorf("read the second copy: %w", err)
		}
	}
	if n, ok := v.gone.without(v.said); ok {
		return &Bad{n, 0, "it is gone, and the log does not say that it let go of it"}, nil
	}
	return nil, nil
}

// ranges is a set of places, in ascending order.
type ranges [][2]uint64

func (r *ranges) add(n uint64) {
	if last := len(*r) - 1; last >= 0 && (*r)[last][1]+1 == n {
		(*r)[last][1] = n
		return
	}
	*r = append(*r, [2]uint64{n, n})
}

// parse adds "7" or "7-9"; anything else adds nothing.
func (r *ranges) parse(text string) {
	from, to, two := strings.Cut(text, "-")
	first, err := strconv.ParseUint(from, 10, 63)
	last := first
	if two && err == nil {
		last, err = strconv.ParseUint(to, 10, 63)
	}
	if err == nil {
		*r = append(*r, [2]uint64{first, last})
	}
}

// without gives the first place that the other set lacks.
func (r *ranges) without(other ranges) (n uint64, ok bool) {
	for _, part := range *r {
		for n := part[0]; n <= part[1]; {
			end, found := other.end(n)
			if !found {
				return n, true
			}
			n = end + 1
		}
	}
	return 0, false
}

// end gives where the part that holds a place ends.
func (r *ranges) end(n uint64) (uint64, bool) {
	for _, part := range *r {
		if part[0] <= n && n <= part[1] {
			return part[1], true
		}
	}
	return 0, false
}

// CheckInclusion tells whether a proof shows that a record is in the tree of a
// checkpoint.
func CheckInclusion(head Checkpoint, seq uint64, leaf tlog.Hash, proof []tlog.Hash) error {
	if seq >= head.Size {
		return fault.New(fault.Invalid, "record %d is not in a log of %d", seq, head.Size)
	}
	if err := tlog.CheckRecord(proof, int64(head.Size), head.Root, int64(seq), leaf); err != nil {
		return fault.New(fault.Corrupt, "record %d is not in the tree of the checkpoint: %w", seq, err)
	}
	return nil
}

// CheckConsistency tells whether a proof shows that a newer tree only adds to an
// older one.
func CheckConsistency(older, newer Checkpoint, proof []tlog.Hash) error {
	if older.Size == 0 || older.Size > newer.Size {
		return fault.New(fault.Corrupt, "the log has %d records, and had %d", newer.Size, older.Size)
	}
	if older.Size == newer.Size {
		if older.Root != newer.Root {
			return fault.New(fault.Corrupt, "two checkpoints of %d records differ: the log has two histories", newer.Size)
		}
		return nil
	}
	if err := tlog.CheckTree(proof, int64(newer.Size), newer.Root, int64(older.Size), older.Root); err != nil {
		return fault.New(fault.Corrupt, "the log is another than it was at %d records: %w", older.Size, err)
	}
	return nil
}
