package trail

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Class is what sort of thing was done. Flags and retention go by it.
type Class string

// The classes.
const (
	Read   Class = "read"    // somebody looked; recorded where a site asks for it
	Act    Class = "act"     // somebody acted on running work
	Admin  Class = "admin"   // somebody changed the installation
	SignIn Class = "sign-in" // somebody came in, or tried to
	Denied Class = "denied"  // somebody was refused
	Key    Class = "key"     // a key was made, used, changed or destroyed
	Export Class = "export"  // data left the installation
	Log    Class = "log"     // the audit log itself: its beginning, what it let go of
)

// Classes lists every class.
func Classes() []Class { return []Class{Read, Act, Admin, SignIn, Denied, Key, Export, Log} }

// Actor is who did it. It names people by a pseudonym: what tells who a
// pseudonym is lies elsewhere, under a key that can be destroyed.
type Actor struct {
	Kind string `json:"kind"`           // user, token, node, local, system, nobody
	ID   string `json:"id"`             // within the kind
	Auth string `json:"auth,omitempty"` // how they proved it
}

// Record is one thing that was done. It holds no free text that people wrote,
// and nothing secret.
type Record struct {
	Seq     uint64            `json:"seq"`  // place in the log, from 0
	Time    string            `json:"time"` // RFC 3339 with nanoseconds, UTC
	Class   Class             `json:"class"`
	Actor   Actor             `json:"actor"`
	Action  string            `json:"action"`            // the method or route
	Object  map[string]string `json:"object,omitempty"`  // what it was done to: field to id
	Outcome string            `json:"outcome"`           // ok, or the kind of the error
	Request string            `json:"request,omitempty"` // names the call; several records may be of one
	Digest  string            `json:"digest,omitempty"`  // SHA-256 of what was asked, in hexadecimal
	Detail  map[string]string `json:"detail,omitempty"`
	Flags   []string          `json:"flags,omitempty"` // of its class, as they were then
	Sealed  *Sealed           `json:"sealed,omitempty"`
	// Personal is what it says of the actor, in the clear, before it is sealed and
	// after it was opened; it is not part of the record.
	Personal map[string]string `json:"-"`
	// Erased tells that Sealed cannot be opened any more.
	Erased bool `json:"-"`
}

// Sealed is personal data under the key of the person whose it is. The hash
// covers the ciphertext, so that a key can be destroyed and proofs still hold.
type Sealed struct {
	Key  string `json:"key"`  // names the key
	Data []byte `json:"data"` // in base64
}

// When gives the record's time; the zero time when it has none.
func (r *Record) When() time.Time {
	t, _ := time.Parse(time.RFC3339Nano, r.Time)
	return t
}

// Stamp writes a time as records have it.
func Stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000000Z") }

// Canonical gives the record's bytes, which are what is hashed.
func (r *Record) Canonical() ([]byte, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode audit record: %w", err)
	}
	return canonical(text)
}

func canonical(text []byte) ([]byte, error) {
	out, err := jsoncanonicalizer.Transform(text)
	if err != nil {
		return nil, fault.New(fault.Invalid, "make audit record canonical: %w", err)
	}
	return out, nil
}

// Parse reads a record. Bytes that are not canonical, or have what records do
// not have, give [fault.Corrupt].
func Parse(text []byte) (*Record, error) {
	again, err := canonical(text)
	if err != nil {
		return nil, fault.Mark(fault.Corrupt, err)
	}
	if !bytes.Equal(again, text) {
		return nil, fault.New(fault.Corrupt, "the record is not in canonical form")
	}
	r := &Record{}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(r); err != nil {
		return nil, fault.New(fault.Corrupt, "read audit record: %w", err)
	}
	return r, nil
}
