// Package bomb calls gRPC methods with bytes that no gRPC client would send: such
// as are few as they come and many when they are unpacked.
package bomb

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"google.golang.org/grpc/codes"
)

// Zeros gives so many MiB of zeros, compressed.
func Zeros(sizeMiB int) []byte {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	block := make([]byte, 1<<20)
	for range sizeMiB {
		_, _ = z.Write(block) // into memory: never fails
	}
	_ = z.Close()
	return packed.Bytes()
}

// Frame gives a gRPC frame with a payload, of which it says that it is compressed
// or not, and has so many bytes.
func Frame(payload []byte, zipped bool, saysBytes int) []byte {
	head := make([]byte, 5)
	if zipped {
		head[0] = 1
	}
	binary.BigEndian.PutUint32(head[1:], uint32(saysBytes))
	return append(head, payload...)
}

// Call calls a method, /package.Service/Method, over HTTP/2, without TLS, with
// these bytes, and gives how the server says that it came out. Headers are added.
func Call(ctx context.Context, address, method string, frame []byte, headers map[string]string) (codes.Code, error) {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+method, bytes.NewReader(frame))
	if err != nil {
		return codes.Unknown, fmt.Errorf("make call: %w", err)
	}
	request.Header.Set("Content-Type", "application/grpc")
	request.Header.Set("Te", "trailers")
	request.Header.Set("Grpc-Encoding", "gzip")
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return codes.Unknown, fmt.Errorf("call: %w", err)
	}
	_, err = io.Copy(io.Discard, response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return codes.Unknown, fmt.Errorf("read answer: %w", err)
	}
	text := response.Trailer.Get("Grpc-Status")
	if text == "" {
		text = response.Header.Get("Grpc-Status")
	}
	code, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return codes.Unknown, fmt.Errorf("the answer, %s, has no status", response.Status)
	}
	return codes.Code(code), nil
}
