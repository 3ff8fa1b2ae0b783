package columns

import (
	"compress/gzip"
	"encoding/csv"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
)

// recording is a node at one-second sampling: /proc of a two-core machine while
// it compiled, as measured, and eight GPUs in training, as modelled after one.
type recording struct {
	names  []string
	rounds [][]Point
}

func readRecording(t testing.TB) recording {
	t.Helper()
	f, err := os.Open("testdata/node.csv.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(unzipped).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	r := recording{names: rows[0][1:]}
	for _, row := range rows[1:] {
		at, err := strconv.ParseInt(row[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		var round []Point
		for i, text := range row[1:] {
			v, err := strconv.ParseFloat(text, 64)
			if err != nil {
				t.Fatal(err)
			}
			round = append(round, Point{uint32(i + 1), at, v})
		}
		r.rounds = append(r.rounds, round)
	}
	return r
}

// batches joins so many rounds at a time.
func (r recording) batches(rounds int) (batches [][]Point) {
	for i := 0; i+rounds <= len(r.rounds); i += rounds {
		var batch []Point
		for _, round := range r.rounds[i : i+rounds] {
			batch = append(batch, round...)
		}
		batches = append(batches, batch)
	}
	return batches
}

// remoteWrite is the same samples as Prometheus' remote write 1.0.
func (r recording) remoteWrite(t testing.TB, batch []Point) []byte {
	request := prompb.WriteRequest{Timeseries: make([]prompb.TimeSeries, len(r.names))}
	for i, name := range r.names {
		part, rest, _ := strings.Cut(name, "_")
		request.Timeseries[i].Labels = []prompb.Label{
			{Name: "__name__", Value: "node_" + rest}, {Name: "device", Value: part},
			{Name: "instance", Value: "node-0017:9100"}, {Name: "job", Value: "node"},
		}
	}
	for _, p := range batch {
		series := &request.Timeseries[p.Ref-1]
		series.Samples = append(series.Samples, prompb.Sample{Value: p.Value, Timestamp: p.TimeMS})
	}
	data, err := request.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return snappy.Encode(nil, data)
}

// The budget of the wire is 3 bytes a sample, everything counted.
func TestANodeAtOneSecondTakesUnderThreeBytesASample(t *testing.T) {
	r := readRecording(t)
	for _, rounds := range []int{1, 5, 10, 30} {
		ours, theirs, n := 0, 0, 0
		for _, batch := range r.batches(rounds) {
			ours += wantRoundTrip(t, batch)
			theirs += len(r.remoteWrite(t, batch))
			n += len(batch)
		}
		bytes, peer := float64(ours)/float64(n), float64(theirs)/float64(n)
		t.Logf("%2d rounds of %d series a block: %.2f bytes a sample, remote write %.2f", rounds, len(r.names), bytes, peer)
		if rounds >= 5 && bytes >= 3 {
			t.Errorf("%d rounds: %.2f bytes a sample", rounds, bytes)
		}
		if bytes*3 > peer {
			t.Errorf("%d rounds: %.2f bytes a sample is not a third of remote write's %.2f", rounds, bytes, peer)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	batches := readRecording(b).batches(10)
	var e Encoder
	var block []byte
	n := 0
	for b.Loop() {
		for _, batch := range batches {
			block = e.Append(block[:0], batch)
			n += len(batch)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/sample")
}

func BenchmarkDecode(b *testing.B) {
	var blocks [][]byte
	for _, batch := range readRecording(b).batches(10) {
		blocks = append(blocks, new(Encoder).Append(nil, batch))
	}
	var d Decoder
	var points []Point
	var err error
	n := 0
	for b.Loop() {
		for _, block := range blocks {
			if points, err = d.Append(points[:0], block); err != nil {
				b.Fatal(err)
			}
			n += len(points)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/sample")
}
