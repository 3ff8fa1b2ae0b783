package trail

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/vigil-ml/vigil/internal/fault"
)

// forge is a log in memory, with its key.
type forge struct {
	t       *testing.T
	signer  note.Signer
	public  string
	entries []Entry
	roots   []string // signed heads, by size-1
}

func newForge(t *testing.T, origin string) *forge {
	t.Helper()
	secret, public, err := GenerateKey(origin)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(secret)
	if err != nil {
		t.Fatal(err)
	}
	return &forge{t: t, signer: signer, public: public}
}

func (f *forge) record(n int) *Record {
	return &Record{
		Seq: uint64(n), Time: Stamp(time.Unix(int64(n), 0)), Class: Act, Actor: Actor{Kind: "user", ID: fmt.Sprint("u", n%3), Auth: "token"},
		Action: "vigil.control.v1.IncidentService/ResolveIncident", Object: map[string]string{"incident_id": fmt.Sprint("inc-", n)},
		Outcome: "ok", Flags: []string{"SOX"}, Sealed: &Sealed{Key: fmt.Sprint("k", n%3), Data: []byte{byte(n), 1, 2}},
	}
}

// write signs records from a place on; what stood there is forgotten.
func (f *forge) write(from int, records ...*Record) {
	f.t.Helper()
	f.entries, f.roots = f.entries[:from], f.roots[:from]
	var tree Frontier
	for _, e := range f.entries {
		tree.Append(e.Leaf)
	}
	for _, r := range records {
		text, err := r.Canonical()
		if err != nil {
			f.t.Fatal(err)
		}
		leaf := tlog.RecordHash(text)
		tree.Append(leaf)
		head := Checkpoint{f.signer.Name(), tree.Size(), tree.Root()}
		signature, err := Sign(f.signer, head)
		if err != nil {
			f.t.Fatal(err)
		}
		f.entries = append(f.entries, Entry{Seq: r.Seq, Record: text, Leaf: leaf, Signature: signature})
		f.roots = append(f.roots, head.Note(signature))
	}
}

// fill writes so many records.
func (f *forge) fill(n int) *forge {
	var records []*Record
	for i := range n {
		records = append(records, f.record(i))
	}
	f.write(0, records...)
	return f
}

// copyOf writes entries as a copy.
func (f *forge) copyOf(entries []Entry) []byte {
	out, err := AppendHeader(nil, Header{Version: 1, Key: f.public})
	if err != nil {
		f.t.Fatal(err)
	}
	for _, e := range entries {
		out = AppendEntry(out, e)
	}
	return out
}

func TestGoodCopy(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, 7, 8, 9, 100} {
		f := newForge(t, "vigil/test").fill(n)
		text := f.copyOf(f.entries)
		var seen int
		options := Options{Key: f.public, Copy: bytes.NewReader(text), See: func(*Record) { seen++ }}
		for _, size := range []int{1, n / 2, n} {
			if size > 0 && size <= n {
				options.Checkpoints = append(options.Checkpoints, f.roots[size-1])
			}
		}
		report, err := Verify(bytes.NewReader(text), options)
		if err != nil || report.Bad != nil || report.Records != uint64(n) || seen != n {
			t.Errorf("%d records: %+v, %v, saw %d", n, report, err, seen)
		}
		if n > 0 && report.Checkpoint != f.roots[n-1] {
			t.Errorf("%d records: checkpoint\n%s\nwant\n%s", n, report.Checkpoint, f.roots[n-1])
		}
	}
}

// The tree is RFC 6962's: the vectors of its reference implementation.
func TestTreeIsThatOfRFC6962(t *testing.T) {
	leaves := []string{"", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"}
	roots := []string{
		"6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
		"fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
		"aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
		"d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
		"4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
		"76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
		"ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
		"5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
	}
	var tree Frontier
	if got := hex.EncodeToString(sum(tree.Root())); got != "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" {
		t.Errorf("empty tree: %s", got)
	}
	var stored []tlog.Hash
	for i, leaf := range leaves {
		data, _ := hex.DecodeString(leaf)
		stored = append(stored, tree.Append(tlog.RecordHash(data))...)
		if got := hex.EncodeToString(sum(tree.Root())); got != roots[i] {
			t.Errorf("%d leaves: root %s, want %s", i+1, got, roots[i])
		}
		if int64(len(stored)) != tlog.StoredHashCount(int64(i+1)) {
			t.Errorf("%d leaves have %d stored hashes, want %d", i+1, len(stored), tlog.StoredHashCount(int64(i+1)))
		}
		var peaks []tlog.Hash
		for _, at := range Peaks(tree.Size()) {
			peaks = append(peaks, stored[at])
		}
		again, err := NewFrontier(tree.Size(), peaks)
		if err != nil || again.Root() != tree.Root() {
			t.Errorf("%d leaves: put together from its peaks: %v", i+1, err)
		}
	}
	if _, err := NewFrontier(3, nil); !fault.Is(err, fault.Corrupt) {
		t.Errorf("a frontier without peaks: %v", err)
	}
}

func sum(h tlog.Hash) []byte { return h[:] }

func TestRecordsAreCanonical(t *testing.T) {
	r := &Record{
		Seq: 3, Time: Stamp(time.Unix(1, 5)), Class: Denied, Actor: Actor{Kind: "user", ID: "u-1"}, Action: "a", Outcome: "denied",
		Object: map[string]string{"z": "<&>\u2028", "a": "é"}, Sealed: &Sealed{Key: "k", Data: []byte{1, 2}},
	}
	text, err := r.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"action":"a","actor":{"id":"u-1","kind":"user"},"class":"denied","object":{"a":"é","z":"<&>` + "\u2028" +
		`"},"outcome":"denied","sealed":{"data":"AQI=","key":"k"},"seq":3,"time":"1970-01-01T00:00:01.000000005Z"}`
	if string(text) != want {
		t.Errorf("canonical form\n%s\nwant\n%s", text, want)
	}
	again, err := Parse(text)
	if diff := cmp.Diff(r, again); err != nil || diff != "" {
		t.Errorf("read again (-wrote +read): %v\n%s", err, diff)
	}
	for name, bad := range map[string]string{
		"order":         `{"seq":3,"action":"a"}`,
		"space":         strings.Replace(want, `{"action"`, `{ "action"`, 1),
		"unknown field": strings.Replace(want, `{"action"`, `{"aaa":1,"action"`, 1),
		"twice":         strings.Replace(want, `{"action"`, `{"action":"b","action"`, 1),
	} {
		if _, err := Parse([]byte(bad)); !fault.Is(err, fault.Corrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckpoints(t *testing.T) {
	f := newForge(t, "vigil/test").fill(5)
	key, err := OpenKey(f.public)
	if err != nil {
		t.Fatal(err)
	}
	good := f.roots[4]
	if c, err := OpenCheckpoint(key, good); err != nil || c.Size != 5 || c.Origin != "vigil/test" {
		t.Errorf("good checkpoint: %+v, %v", c, err)
	}
	other := newForge(t, "vigil/test").fill(5)
	for name, bad := range map[string]string{
		"size":        strings.Replace(good, "\n5\n", "\n6\n", 1),
		"other key":   other.roots[4],
		"no signer":   good[:strings.Index(good, "—")],
		"nothing":     "",
		"other log":   newForge(t, "vigil/other").fill(5).roots[4],
		"half a line": good[:len(good)-5],
	} {
		if _, err := OpenCheckpoint(key, bad); !fault.Is(err, fault.Corrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := OpenKey("nonsense"); !fault.Is(err, fault.Invalid) {
		t.Errorf("a key that is none: %v", err)
	}
}

func TestLetGoMustBeSaid(t *testing.T) {
	f := newForge(t, "vigil/test").fill(10)
	said := f.record(10)
	said.Action, said.Class, said.Detail = ActionLetGo, Log, map[string]string{"ranges": "0-2,5"}
	f.write(10, said)
	letGo := func(places ...int) Report {
		entries := append([]Entry(nil), f.entries...)
		for _, n := range places {
			entries[n].Record = nil
		}
		report, err := Verify(bytes.NewReader(f.copyOf(entries)), Options{Key: f.public})
		if err != nil {
			t.Fatal(err)
		}
		return report
	}
	if report := letGo(0, 1, 2, 5); report.Bad != nil || report.LetGo != 4 {
		t.Errorf("what the log said: %+v", report)
	}
	if report := letGo(0, 1, 2, 3, 5); report.Bad == nil || report.Bad.Index != 3 {
		t.Errorf("one more than it said: %+v", report)
	}
	if report := letGo(10); report.Bad == nil || report.Bad.Index != 10 {
		t.Errorf("the record that says so: %+v", report)
	}
}

func TestProofs(t *testing.T) {
	f := newForge(t, "vigil/test").fill(20)
	key, _ := OpenKey(f.public)
	var stored []tlog.Hash
	var tree Frontier
	for _, e := range f.entries {
		stored = append(stored, tree.Append(e.Leaf)...)
	}
	reader := tlog.HashReaderFunc(func(at []int64) (out []tlog.Hash, err error) {
		for _, i := range at {
			out = append(out, stored[i])
		}
		return out, nil
	})
	head, err := OpenCheckpoint(key, f.roots[19])
	if err != nil {
		t.Fatal(err)
	}
	for seq := range uint64(20) {
		proof, err := tlog.ProveRecord(20, int64(seq), reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckInclusion(head, seq, f.entries[seq].Leaf, proof); err != nil {
			t.Errorf("record %d: %v", seq, err)
		}
		if err := CheckInclusion(head, seq, f.entries[(seq+1)%20].Leaf, proof); !fault.Is(err, fault.Corrupt) {
			t.Errorf("another record at %d: %v", seq, err)
		}
		older, _ := OpenCheckpoint(key, f.roots[seq])
		between, err := tlog.ProveTree(20, int64(seq+1), reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckConsistency(older, head, between); err != nil {
			t.Errorf("from %d: %v", seq+1, err)
		}
		older.Root[0] ^= 1
		if err := CheckConsistency(older, head, between); !fault.Is(err, fault.Corrupt) {
			t.Errorf("from another tree of %d: %v", seq+1, err)
		}
	}
	if err := CheckInclusion(head, 20, f.entries[0].Leaf, nil); !fault.Is(err, fault.Invalid) {
		t.Errorf("a record behind the end: %v", err)
	}
	if err := CheckConsistency(Checkpoint{Size: 21}, head, nil); !fault.Is(err, fault.Corrupt) {
		t.Errorf("a log that got shorter: %v", err)
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte(`{"vigil_audit":1,"key":"k","first":0}` + "\n" + `{"seq":0,"leaf":"x","signature":""}` + "\n"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		r, err := NewReader(bytes.NewReader(data))
		for err == nil {
			_, err = r.Next()
		}
	})
}
