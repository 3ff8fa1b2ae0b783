package metrics

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
)

// result is a query's value as Prometheus writes it.
type result = json.RawMessage

// encode writes a value as Prometheus does: times as seconds with up to three
// decimals, values as strings. Native histograms are not stored here, so none
// come up.
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
			b = append(b, `,"value":`...)
			return append(appendPoint(b, v[i].T, v[i].F), '}'), err
		})
	case promql.Matrix:
		return encodeList(len(v), func(b []byte, i int) ([]byte, error) {
			b, err := appendMetric(b, v[i].Metric)
			b = append(b, `,"values":[`...)
			for j, p := range v[i].Floats {
				if j > 0 {
					b = append(b, ',')
				}
				b = appendPoint(b, p.T, p.F)
			}
			return append(b, ']', '}'), err
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

func appendMetric(b []byte, l labels.Labels) ([]byte, error) {
	text, err := json.Marshal(l)
	return append(append(b, `{"metric":`...), text...), err
}

func appendPoint(b []byte, timeMS int64, value float64) []byte {
	b = append(appendTime(append(b, '['), timeMS), `,"`...)
	format := byte('f')
	if size := math.Abs(value); size != 0 && (size < 1e-6 || size >= 1e21) {
		format = 'e'
	}
	return append(strconv.AppendFloat(b, value, format, -1, 64), `"]`...)
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
