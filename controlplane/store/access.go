package store

import (
	"fmt"

	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// PutToken writes a token and the hash of its secret; an empty hash leaves that
// of a token that is there.
func (tx *Tx) PutToken(t *controlv1.Token, hash []byte) error {
	body, err := tx.marshal(t)
	if err != nil {
		return err
	}
	tx.touch(TopicAccess)
	if len(hash) == 0 {
		_, err = tx.exec("UPDATE access_tokens SET body = $1 WHERE token_id = $2", body, t.GetTokenId())
	} else {
		_, err = tx.exec("INSERT INTO access_tokens (token_id, hash, created, body) VALUES ($1, $2, $3, $4)",
			t.GetTokenId(), hash, nanosOf(t.GetCreated()), body)
	}
	if err != nil {
		return fmt.Errorf("put token %s: %w", t.GetTokenId(), err)
	}
	return nil
}

// Token gives a token and the hash of its secret.
func (tx *Tx) Token(id string) (*controlv1.Token, []byte, error) {
	var hash, body []byte
	what := "token " + id
	if err := tx.one(what, "SELECT hash, body FROM access_tokens WHERE token_id = $1", []any{id}, &hash, &body); err != nil {
		return nil, nil, err
	}
	t := &controlv1.Token{}
	return t, hash, tx.unmarshal(what, body, t)
}

// Tokens gives every token, the newest first.
func (tx *Tx) Tokens() ([]*controlv1.Token, error) {
	return list[controlv1.Token](tx, "tokens", "SELECT body FROM access_tokens ORDER BY created DESC, token_id")
}
