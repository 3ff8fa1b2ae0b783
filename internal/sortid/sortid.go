// Package sortid makes ids that sort by when they were made. What is kept of many
// that are new lies together in a store, where random ids would touch a page each.
package sortid

import (
	"encoding/base32"
	"fmt"
	"strings"

	"github.com/google/uuid"
)

// New gives an id of 16 digits and lower-case letters, which sorts behind all that
// this process made before it. It has the time in milliseconds, 12 bits that count
// within one, and 20 random bits (RFC 9562, section 5.7, with the version and
// variant left out). It is safe for concurrent use, and fails when there is no
// randomness.
func New() (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("make id: %w", err)
	}
	bits := append(id[:6:6], id[6]<<4|id[7]>>4, id[7]<<4|id[13]&0x0f, id[14], id[15])
	return strings.ToLower(base32.HexEncoding.EncodeToString(bits)), nil
}
