package trail

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// manipulation changes a copy and says which record is the first that is wrong.
type manipulation struct {
	name string
	do   func(rng *rand.Rand, f *forge, lines [][]byte) (_ [][]byte, firstBad int)
}

// manipulations is what somebody may do to a copy who lacks the log's key.
func manipulations() []manipulation {
	return []manipulation{
		{"flip a bit", func(rng *rand.Rand, _ *forge, lines [][]byte) ([][]byte, int) {
			n := rng.IntN(len(lines))
			lines[n] = slices.Clone(lines[n])
			lines[n][rng.IntN(len(lines[n])-1)] ^= 1 << rng.IntN(8)
			return lines, n
		}},
		{"change a field", func(rng *rand.Rand, f *forge, lines [][]byte) ([][]byte, int) {
			n := rng.IntN(len(lines))
			r, _ := Parse(f.entries[n].Record)
			r.Actor.ID += "x"
			text, _ := r.Canonical()
			lines[n] = AppendEntry(nil, Entry{Record: text, Signature: f.entries[n].Signature})
			return lines, n
		}},
		{"take out what is sealed", func(rng *rand.Rand, f *forge, lines [][]byte) ([][]byte, int) {
			n := rng.IntN(len(lines))
			r, _ := Parse(f.entries[n].Record)
			r.Sealed = nil // as if that were what an erasure does
			text, _ := r.Canonical()
			lines[n] = AppendEntry(nil, Entry{Record: text, Signature: f.entries[n].Signature})
			return lines, n
		}},
		{"delete", func(rng *rand.Rand, _ *forge, lines [][]byte) ([][]byte, int) {
			n := rng.IntN(len(lines))
			return slices.Delete(lines, n, n+1), n
		}},
		{"let go of secretly", func(rng *rand.Rand, f *forge, lines [][]byte) ([][]byte, int) {
			n := rng.IntN(len(lines))
			e := f.entries[n]
			lines[n] = AppendEntry(nil, Entry{Seq: e.Seq, Leaf: e.Leaf, Signature: e.Signature})
			return lines, n
		}},
		{"swap two", func(rng *rand.Rand, _ *forge, lines [][]byte) ([][]byte, int) {
			a := rng.IntN(len(lines) - 1)
			b := a + 1 + rng.IntN(len(lines)-a-1)
			lines[a], lines[b] = lines[b], lines[a]
			return lines, a
		}},
		{"insert a copy", func(rng *rand.Rand, _ *forge, lines [][]byte) ([][]byte, int) {
			from, to := rng.IntN(len(lines)), rng.IntN(len(lines)+1)
			first := to
			if from == to {
				first = to + 1 // the copy stands where the record did, and the record behind it
			}
			return slices.Insert(lines, to, lines[from]), first
		}},
		{"insert a new one", func(rng *rand.Rand, f *forge, lines [][]byte) ([][]byte, int) {
			n := rng.IntN(len(lines) + 1)
			text, _ := f.record(n).Canonical()
			text = bytes.Replace(text, []byte(`"ok"`), []byte(`"xx"`), 1)
			return slices.Insert(lines, n, AppendEntry(nil, Entry{Record: text, Signature: f.entries[rng.IntN(len(f.entries))].Signature})), n
		}},
		{"truncate", func(rng *rand.Rand, _ *forge, lines [][]byte) ([][]byte, int) {
			n := rng.IntN(len(lines))
			return lines[:n], n
		}},
		{"swap a checkpoint", func(rng *rand.Rand, f *forge, lines [][]byte) ([][]byte, int) {
			n := rng.IntN(len(lines))
			other := (n + 1 + rng.IntN(len(lines)-1)) % len(lines)
			lines[n] = AppendEntry(nil, Entry{Record: f.entries[n].Record, Signature: f.entries[other].Signature})
			return lines, n
		}},
		{"rewrite with a key of one's own", func(rng *rand.Rand, f *forge, lines [][]byte) ([][]byte, int) {
			n := rng.IntN(len(lines))
			mine := newForge(f.t, f.signer.Name()).fill(len(lines))
			for i := n; i < len(lines); i++ {
				lines[i] = AppendEntry(nil, mine.entries[i])
			}
			return lines, n
		}},
	}
}

// TestEveryManipulationIsFound changes a copy at random a thousand times: each
// time the change is found, and the first record that is wrong is named. The
// verifier has the log's public key and its last checkpoint, and nothing else.
func TestEveryManipulationIsFound(t *testing.T) {
	const rounds, records = 1000, 30
	f := newForge(t, "vigil/test").fill(records)
	rng := rand.New(rand.NewPCG(1, 2))
	kinds, found := manipulations(), map[string]int{}
	header := f.copyOf(nil)
	for round := range rounds {
		m := kinds[round%len(kinds)]
		var lines [][]byte
		for _, e := range f.entries {
			lines = append(lines, AppendEntry(nil, e))
		}
		lines, want := m.do(rng, f, lines)
		text := append(slices.Clone(header), bytes.Join(lines, nil)...)
		report, err := Verify(bytes.NewReader(text), Options{Key: f.public, Checkpoints: []string{f.roots[records-1]}})
		if err != nil {
			t.Errorf("round %d, %s: %v", round, m.name, err)
			continue
		}
		if report.Bad == nil || report.Bad.Index != uint64(want) {
			t.Errorf("round %d, %s: found %v, want record %d", round, m.name, report.Bad, want)
			continue
		}
		found[m.name]++
	}
	t.Logf("%d manipulations, found by kind: %s", rounds, fmt.Sprint(found))
}

// Somebody with the log's key can write another history; that shows against a
// second copy, by the record, and against a checkpoint that was kept.
func TestAnotherHistoryIsFound(t *testing.T) {
	f := newForge(t, "vigil/test").fill(30)
	kept := f.copyOf(f.entries)
	rng := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		n := rng.IntN(30)
		fork := &forge{t: t, signer: f.signer, public: f.public, entries: slices.Clone(f.entries), roots: slices.Clone(f.roots)}
		var records []*Record
		for i := n; i < 30; i++ {
			r := f.record(i)
			r.Outcome = "forged"
			records = append(records, r)
		}
		fork.write(n, records...)
		text := fork.copyOf(fork.entries)
		report, err := Verify(bytes.NewReader(text), Options{Key: f.public, Copy: bytes.NewReader(kept)})
		if err != nil || report.Bad == nil || report.Bad.Index != uint64(n) {
			t.Errorf("against a copy: %v, %v; want record %d", report.Bad, err, n)
		}
		report, err = Verify(bytes.NewReader(text), Options{Key: f.public, Checkpoints: []string{f.roots[29]}})
		if err != nil || report.Bad == nil {
			t.Errorf("against a checkpoint: %v, %v", report.Bad, err)
		}
		// What is missing at the end, with nothing else changed.
		report, err = Verify(bytes.NewReader(f.copyOf(f.entries[:n])), Options{Key: f.public, Copy: bytes.NewReader(kept)})
		if err != nil || report.Bad == nil || report.Bad.Index != uint64(n) {
			t.Errorf("cut off: %v, %v; want record %d", report.Bad, err, n)
		}
	}
}
