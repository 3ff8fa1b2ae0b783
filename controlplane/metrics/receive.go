package metrics

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/client_golang/exp/api/remote"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	promremote "github.com/prometheus/prometheus/storage/remote"

	"github.com/vigil-ml/vigil/internal/metric"
)

// ownPrefix begins the names of the dictionary's metrics; only agents and the
// control plane itself write those.
const ownPrefix = "vigil_"

// receiver answers remote write, versions 1 and 2: series of others than Vigil.
func receiver(to storage.AppendableV2, log *slog.Logger, reg prometheus.Registerer) http.Handler {
	theirs := others{to, metric.NewCounter(reg, metric.ControlReceiveDropped)}
	return bounded(promremote.NewWriteHandler(log, reg, theirs, remote.MessageTypes{remote.WriteV1MessageType, remote.WriteV2MessageType}, false, false))
}

// What one request of remote write may bring, as it comes and unpacked. Prometheus
// sends some hundred KiB.
const (
	maxWriteBytes    = 16 << 20
	maxUnpackedBytes = 64 << 20
)

// bounded refuses requests that are too large, and those that say that they would
// be when unpacked: a few bytes may ask for gigabytes.
func bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxWriteBytes))
		if err != nil {
			http.Error(w, "the request cannot be read, or is too large", http.StatusRequestEntityTooLarge)
			return
		}
		if n, err := snappy.DecodedLen(body); err == nil && n > maxUnpackedBytes {
			http.Error(w, "the request is too large when unpacked", http.StatusRequestEntityTooLarge)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

// others takes series of others only.
type others struct {
	storage.AppendableV2
	dropped *prometheus.CounterVec
}

// AppenderV2 gives an appender that leaves out Vigil's own series.
func (o others) AppenderV2(ctx context.Context) storage.AppenderV2 {
	return othersAppender{o.AppendableV2.AppenderV2(ctx), o.dropped}
}

type othersAppender struct {
	storage.AppenderV2
	dropped *prometheus.CounterVec
}

// Append leaves out and counts a sample of Vigil's own series; an error would
// have the sender give up the whole request.
func (a othersAppender) Append(ref storage.SeriesRef, l labels.Labels, st, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, o storage.AOptions) (storage.SeriesRef, error) {
	if strings.HasPrefix(l.Get(model.MetricNameLabel), ownPrefix) {
		a.dropped.WithLabelValues().Inc()
		return 0, nil
	}
	return a.AppenderV2.Append(ref, l, st, t, v, h, fh, o)
}

// AppendExemplars hands exemplars on.
func (a othersAppender) AppendExemplars(ref storage.SeriesRef, l labels.Labels, all []exemplar.Exemplar) (storage.SeriesRef, error) {
	return a.AppenderV2.(storage.ExemplarAppenderV2).AppendExemplars(ref, l, all)
}
