package protocol

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	spb "google.golang.org/genproto/googleapis/rpc/status"
)

// endTrailer is the trailer that says why the control plane ended a stream from
// its side, as a google.rpc.Status. The stream's own status is CANCELLED then,
// whatever the reason: gRPC has no other for a stream whose context ends.
const endTrailer = "vigil-end-bin"

// SetEnd notes why a stream is about to be ended; the error is one that gRPC
// knows the code of.
func SetEnd(stream grpc.ServerStream, why error) {
	if text, err := proto.Marshal(status.Convert(why).Proto()); err == nil {
		stream.SetTrailer(metadata.Pairs(endTrailer, string(text)))
	}
}

// EndOf gives why a stream ended, of which Recv gave an error: what the control
// plane noted, or else that error.
func EndOf(stream grpc.ClientStream, err error) error {
	if status.Code(err) != codes.Canceled {
		return err
	}
	for _, text := range stream.Trailer().Get(endTrailer) {
		why := &spb.Status{}
		if proto.Unmarshal([]byte(text), why) == nil && why.Code != int32(codes.OK) {
			return status.ErrorProto(why)
		}
	}
	return err
}
