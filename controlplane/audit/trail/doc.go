// Package trail is the audit log as bytes: what a record is, how records hang
// together, and how anyone who holds a copy proves that nothing was changed.
// It knows no database and no network: a copy and the log's public key are
// enough.
//
// Records are canonical JSON (RFC 8785). They are the leaves of a Merkle tree
// with the hashes of RFC 6962. Behind each record the log signs the tree's head
// as a C2SP checkpoint; the copy keeps the signature beside the record. So the
// first record that was changed, taken out, put in or moved is known exactly:
// it is the first whose signature does not fit the tree that leads up to it.
// What is cut off at the end shows against a checkpoint that is kept elsewhere.
//
// docs/formats/audit.md has the bytes.
package trail
