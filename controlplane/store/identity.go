package store

import (
	"database/sql"
	"fmt"
	"time"
)

// JoinToken is what a node joins with, without its secret.
type JoinToken struct {
	ID      string
	Hash    []byte
	Node    string // the only one that may use it; empty is any
	Rejoins bool   // of any: also one that has joined before
	Expires time.Time
	Uses    int64 // that are left
}

// PutJoinToken writes a new token.
func (tx *Tx) PutJoinToken(t JoinToken) error {
	rejoins := int64(0)
	if t.Rejoins {
		rejoins = 1
	}
	_, err := tx.exec("INSERT INTO join_tokens (token_id, hash, node, expires, uses, rejoins) VALUES ($1, $2, $3, $4, $5, $6)",
		t.ID, t.Hash, t.Node, nanos(t.Expires), t.Uses, rejoins)
	if err != nil {
		return fmt.Errorf("put join token: %w", err)
	}
	return nil
}

// JoinToken gives a token.
func (tx *Tx) JoinToken(id string) (JoinToken, error) {
	t := JoinToken{ID: id}
	var expires, rejoins int64
	err := tx.one("join token "+id, "SELECT hash, node, expires, uses, rejoins FROM join_tokens WHERE token_id = $1", []any{id},
		&t.Hash, &t.Node, &expires, &t.Uses, &rejoins)
	t.Expires, t.Rejoins = timeOf(expires), rejoins != 0
	return t, err
}

// UseJoinToken takes one use of a token; false when none is left.
func (tx *Tx) UseJoinToken(id string) (bool, error) {
	rows, err := tx.exec("UPDATE join_tokens SET uses = uses - 1 WHERE token_id = $1 AND uses > 0", id)
	if err != nil {
		return false, fmt.Errorf("use join token %s: %w", id, err)
	}
	return rows > 0, nil
}

// ForgetJoinTokens deletes those that have expired.
func (tx *Tx) ForgetJoinTokens(now time.Time) error {
	if _, err := tx.exec("DELETE FROM join_tokens WHERE expires <= $1", nanos(now)); err != nil {
		return fmt.Errorf("forget join tokens: %w", err)
	}
	return nil
}

// ForgetJoinTokensOf deletes those that a node alone may use, and gives how many
// could still be used.
func (tx *Tx) ForgetJoinTokensOf(node string) (good int64, err error) {
	good, err = tx.exec("DELETE FROM join_tokens WHERE node = $1 AND node <> '' AND uses > 0", node)
	if err != nil {
		return 0, fmt.Errorf("forget join tokens of node %s: %w", node, err)
	}
	return good, nil
}

// Certificate is a node's certificate as it was issued.
type Certificate struct {
	Serial, Node             string
	Issued, Expires, Revoked time.Time // Revoked is zero while it is not
}

// PutCertificate writes a certificate that was issued.
func (tx *Tx) PutCertificate(c Certificate) error {
	_, err := tx.exec("INSERT INTO node_certificates (serial, node, issued, expires, revoked) VALUES ($1, $2, $3, $4, 0)",
		c.Serial, c.Node, nanos(c.Issued), nanos(c.Expires))
	if err != nil {
		return fmt.Errorf("put certificate %s: %w", c.Serial, err)
	}
	return nil
}

// Certificate gives a certificate.
func (tx *Tx) Certificate(serial string) (Certificate, error) {
	found, err := tx.certificates("serial = $1", serial)
	if err == nil && len(found) == 0 {
		err = notFound("certificate " + serial)
	}
	if err != nil {
		return Certificate{}, err
	}
	return found[0], nil
}

// Certificates gives those that have not expired, the newest first; of one node,
// or of all when it is empty.
func (tx *Tx) Certificates(node string, now time.Time) ([]Certificate, error) {
	return tx.certificates("expires > $1 AND ($2 = '' OR node = $2) ORDER BY issued DESC, serial", nanos(now), node)
}

// LastCertificate gives the one that a node got last, whatever became of it. It is
// forgotten some time after it has run out.
func (tx *Tx) LastCertificate(node string) (c Certificate, found bool, err error) {
	all, err := tx.certificates("node = $1 ORDER BY issued DESC, revoked, serial LIMIT 1", node)
	if err != nil || len(all) == 0 {
		return Certificate{}, false, err
	}
	return all[0], true, nil
}

// Revoked gives those that were revoked and would be good otherwise.
func (tx *Tx) Revoked(now time.Time) ([]Certificate, error) {
	return tx.certificates("revoked <> 0 AND expires > $1 ORDER BY serial", nanos(now))
}

// RevokeCertificates revokes all that a node has which are good, and gives how
// many.
func (tx *Tx) RevokeCertificates(node string, now time.Time) (int64, error) {
	rows, err := tx.exec("UPDATE node_certificates SET revoked = $1 WHERE node = $2 AND revoked = 0 AND expires > $1", nanos(now), node)
	if err != nil {
		return 0, fmt.Errorf("revoke certificates of node %s: %w", node, err)
	}
	tx.touch(TopicAccess)
	return rows, nil
}

// ForgetCertificates deletes those that expired before a time.
func (tx *Tx) ForgetCertificates(before time.Time) error {
	if _, err := tx.exec("DELETE FROM node_certificates WHERE expires < $1", nanos(before)); err != nil {
		return fmt.Errorf("forget certificates: %w", err)
	}
	return nil
}

func (tx *Tx) certificates(where string, args ...any) ([]Certificate, error) {
	var all []Certificate
	err := tx.each("certificates", "SELECT serial, node, issued, expires, revoked FROM node_certificates WHERE "+where, args,
		func(rows *sql.Rows) error {
			var c Certificate
			var issued, expires, revoked int64
			if err := rows.Scan(&c.Serial, &c.Node, &issued, &expires, &revoked); err != nil {
				return err
			}
			c.Issued, c.Expires, c.Revoked = timeOf(issued), timeOf(expires), timeOf(revoked)
			all = append(all, c)
			return nil
		})
	return all, err
}
