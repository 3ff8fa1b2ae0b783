package ingest

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"

	"github.com/vigil-ml/vigil/internal/life"
)

// codec has workers read messages: a message within messages goes deep, and the
// goroutine of a stream would keep the stack.
type codec struct {
	encoding.CodecV2
	workers *life.Workers
}

func newCodec(workers *life.Workers) codec {
	return codec{encoding.GetCodecV2(proto.Name), workers}
}

// Unmarshal reads a message.
func (c codec) Unmarshal(data mem.BufferSlice, v any) (err error) {
	c.workers.Do(func() { err = c.CodecV2.Unmarshal(data, v) })
	return err
}
