package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"time"

	"github.com/golang/snappy"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/vigil-ml/vigil/internal/columns"
	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/life"
)

// writeRemote sends the same samples by remote write 1.0: each request has the
// newest sample of series after series, as Prometheus' own queues send them.
func (o *ingestOptions) writeRemote(ctx context.Context) error {
	requests := make(chan []byte)
	group := life.NewGroup(ctx)
	for range o.streams {
		group.Go("remote write", func(ctx context.Context) error {
			for body := range requests {
				began := time.Now()
				if err := o.post(ctx, body); err != nil {
					return err
				}
				o.took(time.Since(began))
			}
			return nil
		})
	}
	err := o.writeSteps(group.Context(), requests)
	close(requests)
	if failed := group.Wait(); failed != nil {
		return failed
	}
	return err
}

func (o *ingestOptions) writeSteps(ctx context.Context, requests chan<- []byte) error {
	walks := make([]*walk, o.hosts)
	named := make([][][]byte, o.hosts)
	for i := range walks {
		walks[i] = newWalk(uint64(i), o.gpus, o.perGPU)
		named[i] = o.labels(i, walks[i])
	}
	start := time.Now().Add(-time.Duration(o.steps) * time.Second).UnixMilli()
	var body []byte
	var points []columns.Point
	held := 0
	flush := func() error {
		if held == 0 {
			return nil
		}
		held = 0
		select {
		case requests <- snappy.Encode(nil, body):
			body = body[:0]
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for step := range o.steps / o.together * o.together {
		for i, w := range walks {
			points = w.next(points[:0], start+int64(step)*1000)
			for _, p := range points {
				body = appendSeries(body, named[i][p.Ref-1], p)
				if held++; held >= o.batch {
					if err := flush(); err != nil {
						return err
					}
				}
			}
		}
	}
	return flush()
}

// labels are the labels of a host's series as remote write has them, sorted.
func (o *ingestOptions) labels(i int, w *walk) [][]byte {
	var all [][]byte
	for _, d := range w.defs() {
		var b []byte
		for _, l := range [][2]string{{"__name__", d.Metric}, {"gpu", d.Labels["gpu"]}, {"node", host(i)}} {
			var label []byte
			label = protowire.AppendString(protowire.AppendTag(label, 1, protowire.BytesType), l[0])
			label = protowire.AppendString(protowire.AppendTag(label, 2, protowire.BytesType), l[1])
			b = protowire.AppendBytes(protowire.AppendTag(b, 1, protowire.BytesType), label)
		}
		all = append(all, b)
	}
	return all
}

func appendSeries(body, labels []byte, p columns.Point) []byte {
	var sample []byte
	sample = protowire.AppendFixed64(protowire.AppendTag(sample, 1, protowire.Fixed64Type), math.Float64bits(p.Value))
	sample = protowire.AppendVarint(protowire.AppendTag(sample, 2, protowire.VarintType), uint64(p.TimeMS))
	size := len(labels) + protowire.SizeTag(2) + protowire.SizeBytes(len(sample))
	body = protowire.AppendVarint(protowire.AppendTag(body, 1, protowire.BytesType), uint64(size))
	body = append(body, labels...)
	return protowire.AppendBytes(protowire.AppendTag(body, 2, protowire.BytesType), sample)
}

func (o *ingestOptions) post(ctx context.Context, body []byte) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, o.remoteWrite, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/x-protobuf")
	request.Header.Set("Content-Encoding", "snappy")
	request.Header.Set("X-Prometheus-Remote-Write-Version", "0.1.0")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("write to %s: %w", o.remoteWrite, err)
	}
	defer func() { _ = response.Body.Close() }()
	text, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10))
	if response.StatusCode/100 != 2 {
		return fault.New(fault.Unavailable, "write to %s: it answered %s: %s", o.remoteWrite, response.Status, text)
	}
	return nil
}
