package metrics

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"

	jsoniter "github.com/json-iterator/go"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/jsonutil"
)

// result is a query's value as Prometheus writes it.
type result = json.RawMessage

// encode writes a value as Prometheus does: times as seconds with up to three
// decimals, values as strings. Native histograms, which remote write may bring,
// are objects.
func encode(value parser.Value) (result, error) {
	switch v := value.(type) {
	case promql.Scalar:
		return appendPoint(nil, v.T, v.V), nil
	case promql.String:
		text, err := json.Marshal(v.V)
		return fmt.Appendf(nil, "[%s,%s]", appendTime(nil, v.T), text), err
	case promql.Vector:
		return encodeList(len(v), func(b []byte, i int) ([]byte, error) {
			b, err := appendMetric(b, v[i].Metric)
			if v[i].H != nil {
				return append(appendHistogram(append(b, `,"histogram":`...), v[i].T, v[i].H), '}'), err
			}
			return append(appendPoint(append(b, `,"value":`...), v[i].T, v[i].F), '}'), err
		})
	case promql.Matrix:
		return encodeList(len(v), func(b []byte, i int) ([]byte, error) {
			b, err := appendMetric(b, v[i].Metric)
			b = appendPoints(b, "values", len(v[i].Floats), func(b []byte, j int) []byte {
				return appendPoint(b, v[i].Floats[j].T, v[i].Floats[j].F)
			})
			b = appendPoints(b, "histograms", len(v[i].Histograms), func(b []byte, j int) []byte {
				return appendHistogram(b, v[i].Histograms[j].T, v[i].Histograms[j].H)
			})
			return append(b, '}'), err
		})
	default:
		return nil, fmt.Errorf("encode result: type %s is not known", value.Type())
	}
}

func encodeList(n int, appendItem func([]byte, int) ([]byte, error)) (b []byte, err error) {
	b = append(b, '[')
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = appendItem(b, i); err != nil {
			return nil, fmt.Errorf("encode result: %w", err)
		}
	}
	return append(b, ']'), nil
}

// appendPoints writes the points of one kind of a series, where it has any.
func appendPoints(b []byte, name string, n int, point func([]byte, int) []byte) []byte {
	for i := range n {
		if i == 0 {
			b = append(append(append(b, `,"`...), name...), `":[`...)
		} else {
			b = append(b, ',')
		}
		b = point(b, i)
	}
	if n > 0 {
		b = append(b, ']')
	}
	return b
}

func appendHistogram(b []byte, timeMS int64, h *histogram.FloatHistogram) []byte {
	stream := jsoniter.NewStream(jsoniter.ConfigCompatibleWithStandardLibrary, nil, 0)
	jsonutil.MarshalHistogram(h, stream)
	b = append(appendTime(append(b, '['), timeMS), ',')
	return append(append(b, stream.Buffer()...), ']')
}

func appendMetric(b []byte, l labels.Labels) ([]byte, error) {
	text, err := json.Marshal(l)
	return append(append(b, `{"metric":`...), text...), err
}

func appendPoint(b []byte, timeMS int64, value float64) []byte {
	b = append(appendTime(append(b, '['), timeMS), ',')
	return append(appendValue(b, value), ']')
}

func appendValue(b []byte, value float64) []byte {
	format := byte('f')
	if size := math.Abs(value); size != 0 && (size < 1e-6 || size >= 1e21) {
		format = 'e'
	}
	return append(strconv.AppendFloat(append(b, '"'), value, format, -1, 64), '"')
}

func appendTime(b []byte, timeMS int64) []byte {
	if timeMS < 0 {
		b, timeMS = append(b, '-'), -timeMS
	}
	b = strconv.AppendInt(b, timeMS/1000, 10)
	if rest := timeMS % 1000; rest != 0 {
		b = fmt.Appendf(b, ".%03d", rest)
	}
	return b
}
