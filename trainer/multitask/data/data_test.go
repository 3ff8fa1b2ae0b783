package data

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/parquet-go/parquet-go"
	"go.uber.org/goleak"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// people is a table with words, numbers, holes and two tasks.
func people(t *testing.T, rows int) string {
	t.Helper()
	var text strings.Builder
	text.WriteString("age,job,city,rich,weight\n")
	for i := range rows {
		age, job, rich, weight := fmt.Sprint(20+i%40), []string{"cook", "clerk", "miner"}[i%3], []string{"no", "yes"}[i%2], fmt.Sprint(50+i%50)
		switch i % 10 {
		case 3:
			age = ""
		case 7:
			rich = ""
		case 9:
			weight = ""
		}
		_, _ = fmt.Fprintf(&text, "%s,%s,x,%s,%s\n", age, job, rich, weight)
	}
	return written(t, "people.csv", text.String())
}

func written(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func wanted() []Wanted {
	return []Wanted{{Name: "wealth", Column: "rich", Classes: true}, {Name: "weight", Column: "weight"}}
}

func TestTable(t *testing.T) {
	table, err := OpenTable("csv", TableConfig{Path: people(t, 200), HeldOut: 0.25}, wanted())
	if err != nil {
		t.Fatal(err)
	}
	shape := table.Shape()
	// Age, three jobs, and the one word of city.
	if shape.Inputs != 5 || shape.Rows != 150 || table.held.rows != 50 || len(shape.Targets) != 2 {
		t.Fatalf("shape %+v, %d held out", shape, table.held.rows)
	}
	if diff := cmp.Diff([]string{"no", "yes"}, shape.Targets[0].Labels); diff != "" || shape.Targets[0].Classes != 2 {
		t.Errorf("classes %s", diff)
	}
	batch := NewBatch(shape, 150)
	cursor, picks := NewCursor(1), make([]int32, 150)
	table.Draw(&cursor, picks)
	table.Fill(batch, picks)
	sum, square, unlabelled, unknown := 0.0, 0.0, 0, 0
	for i := range batch.Rows {
		row := batch.Inputs[i*5 : i*5+5]
		sum += float64(row[0])
		square += float64(row[0]) * float64(row[0])
		if jobs := row[1] + row[2] + row[3]; jobs != 1 || row[4] != 1 {
			t.Fatalf("row %d: %v", i, row)
		}
		if batch.Labels[0][i] < 0 {
			unlabelled++
		}
		if batch.Values[1][i] != batch.Values[1][i] {
			unknown++
		}
	}
	if math.Abs(sum/150) > 1e-5 || square/150 < 0.8 || square/150 > 1.001 {
		t.Errorf("age has mean %v and mean square %v", sum/150, square/150)
	}
	if unlabelled == 0 || unknown == 0 || unlabelled > 40 || unknown > 40 {
		t.Errorf("%d rows without a class and %d without a number", unlabelled, unknown)
	}
}

// TestWhatIsNotFiniteIsMissing: in what is learnt of a column, in what is learnt
// from, and in what is to be told.
func TestWhatIsNotFiniteIsMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "table.csv")
	text := "x,y\n1,10\nNaN,inf\n-Inf,nan\n1e999,-1e999\n,\n3,30\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	table, err := OpenTable("csv", TableConfig{Path: path, HeldOutPath: path}, []Wanted{{Name: "y", Column: "y"}})
	if err != nil {
		t.Fatal(err)
	}
	if target := table.Shape().Targets[0]; target.Mean != 20 || target.Unit != 10 || table.inputs != 1 {
		t.Errorf("y is %+v, x %d inputs; want a mean of 20, a deviation of 10, and one input", target, table.inputs)
	}
	nan := float32(math.NaN())
	if diff := cmp.Diff([]float32{-1, 0, 0, 0, 0, 1}, table.held.inputs); diff != "" {
		t.Errorf("x: %s", diff)
	}
	if diff := cmp.Diff([]float32{-1, nan, nan, nan, nan, 1}, table.held.values[0], cmpopts.EquateNaNs()); diff != "" {
		t.Errorf("y: %s", diff)
	}
}

// TestParquetIsReadAsCSV: the same table in both formats is the same numbers.
func TestParquetIsReadAsCSV(t *testing.T) {
	type row struct {
		Size  *float64 `parquet:"size,optional"`
		Kind  string   `parquet:"kind"`
		Big   bool     `parquet:"big"`
		Count int64    `parquet:"count"`
	}
	var rows []row
	text := "size,kind,big,count\n"
	for i := range 1500 { // more than are read at once
		r, size := row{Kind: fmt.Sprint("k", i%4), Big: i%3 == 0, Count: int64(i)}, ""
		if i%5 > 0 {
			value := float64(i) / 4
			r.Size, size = &value, fmt.Sprint(value)
		}
		rows = append(rows, r)
		text += fmt.Sprintf("%s,%s,%v,%d\n", size, r.Kind, r.Big, r.Count)
	}
	path := filepath.Join(t.TempDir(), "t.parquet")
	if err := parquet.WriteFile(path, rows); err != nil {
		t.Fatal(err)
	}
	tasks := []Wanted{{Name: "big", Column: "big", Classes: true}, {Name: "count", Column: "count"}}
	one, err := OpenTable("parquet", TableConfig{Path: path, HeldOut: 0.2}, tasks)
	if err != nil {
		t.Fatal(err)
	}
	two, err := OpenTable("csv", TableConfig{Path: written(t, "t.csv", text), HeldOut: 0.2}, tasks)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(two.learn, one.learn, cmp.AllowUnexported(block{})); diff != "" {
		t.Errorf("learn on: %s", diff)
	}
	if diff := cmp.Diff(two.held, one.held, cmp.AllowUnexported(block{})); diff != "" {
		t.Errorf("held out: %s", diff)
	}
}

func TestAnotherFileHeldOut(t *testing.T) {
	table, err := OpenTable("csv", TableConfig{Path: people(t, 100), HeldOut: 0.2}, wanted())
	if err != nil {
		t.Fatal(err)
	}
	// Without the tasks' columns, with a word that is new.
	other, err := table.Holding(written(t, "new.csv", "job,age,city\nastronaut,30,x\ncook,,x\n"))
	if err != nil {
		t.Fatal(err)
	}
	batch := NewBatch(other.Shape(), 8)
	if n := other.Held(batch, 0); n != 2 || batch.Labels[0][0] != -1 || batch.Values[1][0] == batch.Values[1][0] {
		t.Errorf("%d rows, labels %v, values %v", n, batch.Labels[0][:2], batch.Values[1][:2])
	}
	if got := batch.Inputs[1] + batch.Inputs[2] + batch.Inputs[3]; got != 0 {
		t.Errorf("a word that is new is %v", batch.Inputs[:5])
	}
	if batch.Inputs[5] != 0 {
		t.Errorf("a number that is missing is %v, want the mean", batch.Inputs[5])
	}
	if n := other.Held(batch, 2); n != 0 {
		t.Errorf("%d rows behind the last", n)
	}
}

func TestWrongTables(t *testing.T) {
	good := people(t, 50)
	for want, c := range map[string]struct {
		config TableConfig
		tasks  []Wanted
		kind   fault.Kind
	}{
		"no such file":           {TableConfig{Path: "nowhere.csv", HeldOut: 0.2}, wanted(), fault.NotFound},
		"held_out is 0":          {TableConfig{Path: good}, wanted(), fault.Invalid},
		"there are no tasks":     {TableConfig{Path: good, HeldOut: 0.2}, nil, fault.Invalid},
		"no column \"x\"":        {TableConfig{Path: good, HeldOut: 0.2}, []Wanted{{Name: "a", Column: "x"}}, fault.Invalid},
		"does not hold numbers":  {TableConfig{Path: good, HeldOut: 0.2}, []Wanted{{Name: "a", Column: "job"}}, fault.Invalid},
		"has 1 classes":          {TableConfig{Path: good, HeldOut: 0.2}, []Wanted{{Name: "a", Column: "city", Classes: true}}, fault.Invalid},
		"no column \"height\"":   {TableConfig{Path: good, HeldOut: 0.2, Features: []string{"height"}}, wanted(), fault.Invalid},
		"two columns are called": {TableConfig{Path: written(t, "a.csv", "a,a\n1,2\n"), HeldOut: 0.2}, wanted(), fault.Invalid},
		"there are no rows":      {TableConfig{Path: written(t, "a.csv", "a,b\n"), HeldOut: 0.2}, wanted(), fault.Invalid},
		"wrong number of fields": {TableConfig{Path: written(t, "a.csv", "a,b\n1\n"), HeldOut: 0.2}, wanted(), fault.Invalid},
		"no column is left":      {TableConfig{Path: written(t, "a.csv", "rich,weight\na,2\nb,3\na,2\nb,1\n"), HeldOut: 0.2}, wanted(), fault.Invalid},
		"header":                 {TableConfig{Path: written(t, "a.csv", ""), HeldOut: 0.2}, wanted(), fault.Invalid},
	} {
		if _, err := OpenTable("csv", c.config, c.tasks); !fault.Is(err, c.kind) || !strings.Contains(err.Error(), want) {
			t.Errorf("OpenTable = %v, want %v with %q", err, c.kind, want)
		}
	}
	if _, err := OpenTable("parquet", TableConfig{Path: good, HeldOut: 0.2}, wanted()); !fault.Is(err, fault.Corrupt) {
		t.Errorf("a CSV file as Parquet: %v", err)
	}
}

// TestEpochs: every row comes once an epoch, in another order each time, and what
// comes depends on the position alone.
func TestEpochs(t *testing.T) {
	e, c := epochs{rows: 10}, NewCursor(4)
	all := make([]int32, 30)
	e.draw(&c, all)
	var sums [3]int32
	for epoch := range 3 {
		seen := map[int32]bool{}
		for _, row := range all[10*epoch : 10*epoch+10] {
			seen[row] = true
			sums[epoch] += row * row * int32(len(seen))
		}
		if len(seen) != 10 {
			t.Errorf("epoch %d has %d of 10 rows", epoch+1, len(seen))
		}
	}
	if sums[0] == sums[1] && sums[1] == sums[2] {
		t.Errorf("every epoch has the same order: %v", all)
	}
	fresh, at := epochs{rows: 10}, NewCursor(4)
	at.Drawn = 13
	rest := make([]int32, 17)
	fresh.draw(&at, rest)
	if diff := cmp.Diff(all[13:], rest); diff != "" {
		t.Errorf("from position 13: %s", diff)
	}
}

// TestPipeline: whatever is looked at, taken, and gone back to, batches are those
// of the position, made by workers or not.
func TestPipeline(t *testing.T) {
	table, err := OpenTable("csv", TableConfig{Path: people(t, 90), HeldOut: 0.2}, wanted())
	if err != nil {
		t.Fatal(err)
	}
	for _, workers := range []int{0, 2} {
		p := NewPipeline(table, 7, 4, NewCursor(2))
		group := life.NewGroup(context.Background())
		if workers > 0 {
			p.Async()
		}
		for range workers {
			group.Go("work", p.Work)
		}
		look := func(i int) string { return fmt.Sprint(p.At(i).Inputs, p.At(i).Labels) }
		first, third := look(0), look(2)
		if first == third || look(0) != first {
			t.Errorf("batches are not as they were")
		}
		p.Commit(2)
		if look(0) != third || p.Cursor().Drawn != 14 {
			t.Errorf("behind two batches stands another than the third; position %d", p.Cursor().Drawn)
		}
		p.Commit(9)
		p.Seek(NewCursor(2))
		if look(2) != third {
			t.Error("after going back the third batch is another")
		}
		p.Close()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	}
}

func TestToy(t *testing.T) {
	config := ToyConfig{Scales: []float64{1, 100}, Samples: 500, Held: 100, Seed: 2}
	source, err := NewToy(config)
	if err != nil {
		t.Fatal(err)
	}
	shape, batch := source.Shape(), NewBatch(source.Shape(), 100)
	if shape.Inputs != 250 || len(shape.Targets) != 2 || shape.Targets[1].Outputs != 100 {
		t.Fatalf("shape %+v", shape)
	}
	if n := source.Held(batch, 0); n != 100 {
		t.Fatalf("%d held out", n)
	}
	var squares [2]float64
	product, length := 0.0, 0.0
	for i := range batch.Values[0] {
		a, b := float64(batch.Values[0][i]), float64(batch.Values[1][i])/100
		if math.Abs(a) > 1 || math.Abs(b) > 1 {
			t.Fatalf("values %v and %v are no tanh", a, b)
		}
		squares[0] += a * a
		squares[1] += b * b
		product += a * b
	}
	for _, x := range batch.Inputs {
		length += float64(x) * float64(x) / 100
	}
	// The tasks share most of their matrix; the inputs have length 1.
	if alike := product / math.Sqrt(squares[0]*squares[1]); alike < 0.4 || alike > 0.95 {
		t.Errorf("the tasks' targets have a cosine of %v", alike)
	}
	if math.Abs(length-1) > 0.1 {
		t.Errorf("inputs have a mean square length of %v", length)
	}
	if _, err := NewToy(ToyConfig{Scales: []float64{-1}, Samples: 1, Held: 1}); !fault.Is(err, fault.Invalid) {
		t.Errorf("a negative scale: %v", err)
	}
	if _, err := NewToy(ToyConfig{}); !fault.Is(err, fault.Invalid) {
		t.Errorf("nothing at all: %v", err)
	}
}

func TestDigitsHoldOut(t *testing.T) {
	source, err := NewDigits()
	if err != nil {
		t.Fatal(err)
	}
	batch, rows := NewBatch(source.Shape(), 100), 0
	for {
		n := source.Held(batch, rows)
		if n <= 0 {
			break
		}
		rows += n
	}
	if rows != heldPairs {
		t.Errorf("%d pairs are held out, want %d", rows, heldPairs)
	}
}

func FuzzCSV(f *testing.F) {
	f.Add("a,b\n1,2\n3,4\n")
	f.Add("a,\"b\n\"\n,\n\"\",x\n")
	f.Fuzz(func(t *testing.T, text string) {
		r := &raw{}
		if err := r.csv(strings.NewReader(text)); err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("csv = %v", err)
			}
			return
		}
		for i, column := range r.values {
			if len(column) != r.rows {
				t.Errorf("column %d has %d of %d rows", i, len(column), r.rows)
			}
		}
	})
}
