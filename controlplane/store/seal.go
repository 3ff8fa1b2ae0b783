package store

import (
	"bytes"
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/vigil-ml/vigil/internal/fault"
	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Sealer encrypts what records say of people, so that who has the database has
// not that. Associated is what a text is of; it opens as nothing else. It is
// safe for concurrent use.
type Sealer interface {
	Encrypt(plaintext, associated []byte) ([]byte, error)
	Decrypt(ciphertext, associated []byte) ([]byte, error)
}

// sealed begins what is encrypted: no message does. What is not was written
// before there were keys, and is encrypted when it is written again.
var sealed = [2]byte{0, 'v'}

// sealing is how a store encrypts.
type sealing struct {
	sealer Sealer
	types  map[protoreflect.FullName]bool // whose records are encrypted
}

// Protect has records that say something of people encrypted from now on: those
// whose message has a field that is marked as personal. It is called once,
// before anything that is to be encrypted is written or read.
func (s *Store) Protect(with Sealer) { s.sealing.Store(&sealing{with, PersonalTypes()}) }

// Scrub takes what was overwritten off the disk, as far as the engine can.
func (s *Store) Scrub(ctx context.Context) error {
	if _, err := s.writer.ExecContext(ctx, s.engine.traits().scrub); err != nil {
		return fmt.Errorf("scrub the store: %w", classify(err))
	}
	return nil
}

// PersonalTypes gives the messages of vigil.control.v1 that have a field of
// their own which is marked as personal.
func PersonalTypes() map[protoreflect.FullName]bool {
	types := map[protoreflect.FullName]bool{}
	pack := controlv1.File_vigil_control_v1_services_proto.Package()
	protoregistry.GlobalFiles.RangeFilesByPackage(pack, func(file protoreflect.FileDescriptor) bool {
		for i := range file.Messages().Len() {
			if message := file.Messages().Get(i); saysOfPeople(message) {
				types[message.FullName()] = true
			}
		}
		return true
	})
	return types
}

func saysOfPeople(message protoreflect.MessageDescriptor) bool {
	for i := range message.Fields().Len() {
		if Personal(message.Fields().Get(i)) {
			return true
		}
	}
	return false
}

// Personal tells whether a field is marked as personal.
func Personal(field protoreflect.FieldDescriptor) bool {
	marked, _ := proto.GetExtension(field.Options(), commonv1.E_Personal).(bool)
	return marked
}

// marshal gives a record's bytes as they are stored.
func (tx *Tx) marshal(m proto.Message) ([]byte, error) {
	body, err := marshal(m)
	if err != nil {
		return nil, err
	}
	return tx.seal(nameOf(m), body)
}

func nameOf(m proto.Message) protoreflect.FullName { return m.ProtoReflect().Descriptor().FullName() }

// seal encrypts a message's bytes, if its type is encrypted. None stay none.
func (tx *Tx) seal(of protoreflect.FullName, body []byte) ([]byte, error) {
	if tx.sealing == nil || !tx.sealing.types[of] || len(body) == 0 {
		return body, nil
	}
	text, err := tx.sealing.sealer.Encrypt(body, []byte(of))
	if err != nil {
		return nil, fault.New(fault.Internal, "encrypt %s: %w", of, err)
	}
	return append(sealed[:], text...), nil
}

// open gives a message's bytes back.
func (tx *Tx) open(what string, of protoreflect.FullName, body []byte) ([]byte, error) {
	text, is := bytes.CutPrefix(body, sealed[:])
	if !is {
		return body, nil
	}
	if tx.sealing == nil {
		return nil, fault.New(fault.Denied, "decode %s: it is encrypted, and there is no key", what)
	}
	plain, err := tx.sealing.sealer.Decrypt(text, []byte(of))
	if err != nil {
		return nil, fault.New(fault.Corrupt, "decode %s: it does not open with the records' keys: %w", what, err)
	}
	return plain, nil
}

func (tx *Tx) unmarshal(what string, body []byte, into proto.Message) error {
	body, err := tx.open(what, nameOf(into), body)
	if err != nil {
		return err
	}
	if err := proto.Unmarshal(body, into); err != nil {
		return fault.New(fault.Corrupt, "decode %s: %w", what, err)
	}
	return nil
}
