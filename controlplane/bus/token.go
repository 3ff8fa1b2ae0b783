package bus

import (
	"strings"

	"github.com/vigil-ml/vigil/internal/fault"
)

// maxNameBytes bounds the names of nodes and runs, so that a subject, with
// every byte of both escaped, stays under NATS' limit of 4 KiB a line.
const maxNameBytes = 512

const hexDigits = "0123456789ABCDEF"

// token writes a name as one token of a NATS subject. ASCII letters, digits,
// '-' and '_' stand for themselves, every other byte is '=' and two upper-case
// hex digits, and the empty name is "=". Different names give different tokens.
func token(name string) string {
	if name == "" {
		return "="
	}
	var b strings.Builder
	for i := range len(name) {
		if c := name[i]; plain(c) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'=', hexDigits[c>>4], hexDigits[c&15]})
		}
	}
	return b.String()
}

// untoken is the inverse of token; it refuses what token never writes.
func untoken(text string) (string, error) {
	if text == "=" {
		return "", nil
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		c := text[i]
		if plain(c) {
			b.WriteByte(c)
			continue
		}
		if c != '=' || i+2 >= len(text) {
			return "", fault.New(fault.Corrupt, "read token %q: byte %d does not belong there", text, i)
		}
		high, low := strings.IndexByte(hexDigits, text[i+1]), strings.IndexByte(hexDigits, text[i+2])
		escaped := byte(high<<4 | low)
		if high < 0 || low < 0 || plain(escaped) {
			return "", fault.New(fault.Corrupt, "read token %q: %q is not an escaped byte", text, text[i:i+3])
		}
		b.WriteByte(escaped)
		i += 2
	}
	if b.Len() == 0 {
		return "", fault.New(fault.Corrupt, "read token: it is empty")
	}
	return b.String(), nil
}

func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// ownMark ends the source of what the control plane says of a node itself. No
// token has it.
const ownMark = "~"

// sourceOf is who says it: a node's agent, or the control plane of the node.
// Each source has positions of its own.
func sourceOf(node string, own bool) string {
	if own {
		return token(node) + ownMark
	}
	return token(node)
}
