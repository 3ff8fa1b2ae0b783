package finite

import (
	"bytes"
	"encoding/binary"
	"strings"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Values of a pickle that are of use here; any other is nil. Nothing is ever
// called and no class is looked up: a name is a name.
type (
	global  string // of a class or function, as "module name"
	list    struct{ of []any }
	dict    struct{ of []any } // keys and values in turn
	persist struct{ id any }   // what the pickle refers to outside itself
	// made is what calling a function with arguments would have given.
	made struct {
		by   global
		with []any
	}
	mark struct{}
)

const (
	maxPickleValues = 4 << 20 // on the stack and in the memo
	maxPickleDepth  = 200
)

// unpickle reads a pickle of protocol 2 to 5 as far as torch.save writes it:
// https://docs.python.org/3/library/pickletools.html. An opcode that is not known
// is an error.
func unpickle(data []byte) (any, error) {
	u := &unpickler{rest: data, memo: map[uint64]any{}}
	for {
		op, err := u.take(1)
		if err != nil {
			return nil, err
		}
		if op[0] == '.' {
			return u.pop()
		}
		if err := u.step(op[0]); err != nil {
			return nil, err
		}
		if len(u.stack)+len(u.memo) > maxPickleValues {
			return nil, fault.New(fault.Exhausted, "pickle has too many values")
		}
	}
}

type unpickler struct {
	rest  []byte
	stack []any
	memo  map[uint64]any
}

func (u *unpickler) bad(what string) error { return fault.New(fault.Corrupt, "pickle: %s", what) }

func (u *unpickler) take(n uint64) ([]byte, error) {
	if n > uint64(len(u.rest)) {
		return nil, u.bad("it ends early")
	}
	taken := u.rest[:n]
	u.rest = u.rest[n:]
	return taken, nil
}

// number reads an unsigned little-endian number of some bytes.
func (u *unpickler) number(n uint64) (uint64, error) {
	taken, err := u.take(n)
	var whole [8]byte
	copy(whole[:], taken)
	return binary.LittleEndian.Uint64(whole[:]), err
}

// counted reads bytes behind their number.
func (u *unpickler) counted(sizeBytes uint64) ([]byte, error) {
	n, err := u.number(sizeBytes)
	if err != nil {
		return nil, err
	}
	return u.take(n)
}

func (u *unpickler) line() (string, error) {
	end := bytes.IndexByte(u.rest, '\n')
	if end < 0 {
		return "", u.bad("a line does not end")
	}
	text := string(u.rest[:end])
	u.rest = u.rest[end+1:]
	return text, nil
}

func (u *unpickler) push(v any) error {
	u.stack = append(u.stack, v)
	return nil
}

func (u *unpickler) pop() (any, error) {
	if len(u.stack) == 0 {
		return nil, u.bad("its stack is empty")
	}
	top := u.stack[len(u.stack)-1]
	u.stack = u.stack[:len(u.stack)-1]
	return top, nil
}

// popN gives the last n values.
func (u *unpickler) popN(n int) ([]any, error) {
	if len(u.stack) < n {
		return nil, u.bad("its stack is too short")
	}
	taken := append([]any(nil), u.stack[len(u.stack)-n:]...)
	u.stack = u.stack[:len(u.stack)-n]
	return taken, nil
}

// popMark gives the values above the last mark and takes the mark away.
func (u *unpickler) popMark() ([]any, error) {
	for i := len(u.stack) - 1; i >= 0; i-- {
		if _, ok := u.stack[i].(mark); ok {
			taken, err := u.popN(len(u.stack) - i - 1)
			u.stack = u.stack[:i]
			return taken, err
		}
	}
	return nil, u.bad("there is no mark")
}

// widthOf is how many bytes of an opcode's own, or of the number of them, follow it.
func widthOf(op byte) uint64 {
	switch op {
	case 0x80, 'K', 'U', 0x8c, 'C', 'q', 'h':
		return 1
	case 'M':
		return 2
	case 'J', 'T', 'X', 'B', 'r', 'j':
		return 4
	}
	return 8
}

// step does one opcode.
func (u *unpickler) step(op byte) error {
	switch op {
	case 0x80, 0x95: // PROTO, FRAME
		_, err := u.take(widthOf(op))
		return err
	case 'G': // BINFLOAT
		if _, err := u.take(widthOf(op)); err != nil {
			return err
		}
		return u.push(nil)
	case 'K', 'M', 'J': // BININT1, BININT2, BININT
		n, err := u.number(widthOf(op))
		if err != nil {
			return err
		}
		if op == 'J' {
			return u.push(int64(int32(n)))
		}
		return u.push(int64(n))
	case 'U', 'T', 'X', 0x8c, 0x8d: // texts
		text, err := u.counted(widthOf(op))
		if err != nil {
			return err
		}
		return u.push(string(text))
	case 'B', 'C', 0x8e, 0x96: // bytes
		if _, err := u.counted(widthOf(op)); err != nil {
			return err
		}
		return u.push(nil)
	}
	if handled, err := u.remember(op); handled {
		return err
	}
	return u.build(op)
}

// remember does the opcodes of numbers, and of the memo.
func (u *unpickler) remember(op byte) (handled bool, err error) {
	top := func() any {
		if len(u.stack) == 0 {
			err = u.bad("its stack is empty")
			return nil
		}
		return u.stack[len(u.stack)-1]
	}
	var n uint64
	switch op {
	case 0x8a: // LONG1
		var digits []byte
		if digits, err = u.counted(1); err != nil {
			return true, err
		}
		return true, u.push(long(digits))
	case 'q', 'r': // BINPUT, LONG_BINPUT
		if n, err = u.number(widthOf(op)); err == nil {
			u.memo[n] = top()
		}
	case 'h', 'j': // BINGET, LONG_BINGET
		if n, err = u.number(widthOf(op)); err == nil {
			known, ok := u.memo[n]
			if !ok {
				return true, u.bad("it refers to what is not there")
			}
			return true, u.push(known)
		}
	case 0x94: // MEMOIZE
		u.memo[uint64(len(u.memo))] = top()
	case '0': // POP
		_, err = u.pop()
	case '1': // POP_MARK
		_, err = u.popMark()
	case '2': // DUP
		return true, u.push(top())
	default:
		return false, nil
	}
	return true, err
}

// long is a signed little-endian number; one that does not fit is nil.
func long(digits []byte) any {
	if len(digits) > 8 {
		return nil
	}
	var whole [8]byte
	copy(whole[:], digits)
	n := int64(binary.LittleEndian.Uint64(whole[:]))
	if shift := 64 - 8*len(digits); len(digits) > 0 {
		n = n << shift >> shift
	}
	return n
}

// build does the opcodes that make something of values.
func (u *unpickler) build(op byte) error {
	switch op {
	case '(':
		return u.push(mark{})
	case 'N', 0x88, 0x89: // None, True, False
		return u.push(nil)
	case '}':
		return u.push(&dict{})
	case ']', 0x8f: // a list, a set
		return u.push(&list{})
	case ')':
		return u.push([]any(nil))
	case 't', 0x91: // a tuple, a frozen set
		items, err := u.popMark()
		if err != nil {
			return err
		}
		return u.push(items)
	case 0x85, 0x86, 0x87: // tuples of one, two, three
		items, err := u.popN(int(op) - 0x84)
		if err != nil {
			return err
		}
		return u.push(items)
	case 'c': // GLOBAL
		module, err := u.line()
		if err != nil {
			return err
		}
		name, err := u.line()
		if err != nil {
			return err
		}
		return u.push(global(module + " " + name))
	case 'Q': // BINPERSID
		id, err := u.pop()
		if err != nil {
			return err
		}
		return u.push(persist{id})
	}
	return u.join(op)
}

// join does the opcodes that put values into others.
func (u *unpickler) join(op byte) error {
	var items []any
	var err error
	switch op {
	case 'u', 'e', 0x90: // SETITEMS, APPENDS, ADDITEMS
		if items, err = u.popMark(); err != nil {
			return err
		}
	case 's', 0x93, 'R', 0x81: // SETITEM, STACK_GLOBAL, REDUCE, NEWOBJ
		items, err = u.popN(2)
	case 'a', 'b': // APPEND, BUILD
		items, err = u.popN(1)
	default:
		return fault.New(fault.Unsupported, "pickle: opcode %#x", op)
	}
	if err != nil {
		return err
	}
	switch op {
	case 0x93:
		module, _ := items[0].(string)
		name, _ := items[1].(string)
		return u.push(global(module + " " + name))
	case 'R', 0x81:
		by, _ := items[0].(global)
		with, _ := items[1].([]any)
		if by == "collections OrderedDict" || strings.HasSuffix(string(by), " defaultdict") {
			return u.push(&dict{})
		}
		return u.push(&made{by, with})
	}
	if len(u.stack) == 0 {
		return u.bad("its stack is empty")
	}
	switch into := u.stack[len(u.stack)-1].(type) {
	case *dict:
		into.of = append(into.of, items...)
	case *list:
		into.of = append(into.of, items...)
	case *made: // an object and its state
		into.with = append(into.with, items...)
	}
	return nil
}
