package finite

import "encoding/binary"

// kind is a type of floating-point value, little-endian. The zero kind is of
// values that are always finite.
type kind struct {
	bytes    int
	exponent uint64 // the bits that are all set in a value that is not finite
	mantissa uint64 // the bits of which one is set in a NaN; 0: there is no infinity
}

// kindOf gives the kind by safetensors' name for it; the zero kind for
// integers, and for what is not known.
func kindOf(name string) kind {
	switch name {
	case "F64":
		return kind{8, 0x7ff0_0000_0000_0000, 0x000f_ffff_ffff_ffff}
	case "F32":
		return kind{4, 0x7f80_0000, 0x007f_ffff}
	case "BF16":
		return kind{2, 0x7f80, 0x007f}
	case "F16":
		return kind{2, 0x7c00, 0x03ff}
	case "F8_E5M2":
		return kind{1, 0x7c, 0x03}
	case "F8_E4M3":
		return kind{1, 0x7f, 0}
	}
	return kind{}
}

// clean tells whether all values are finite. It looks at eight bytes at a time:
// adding the lowest bit of the exponent carries into the place of the sign when,
// and only when, all of the exponent's bits are set.
func (k kind) clean(p []byte) bool {
	mask, low, sign := uint64(0), uint64(0), uint64(0)
	for shift := 0; shift < 64; shift += 8 * k.bytes {
		mask |= k.exponent << shift
		low |= (k.exponent & -k.exponent) << shift
		sign |= 1 << (shift + 8*k.bytes - 1)
	}
	hit := uint64(0)
	for ; len(p) >= 32; p = p[32:] {
		a := binary.LittleEndian.Uint64(p)&mask + low
		b := binary.LittleEndian.Uint64(p[8:])&mask + low
		c := binary.LittleEndian.Uint64(p[16:])&mask + low
		d := binary.LittleEndian.Uint64(p[24:])&mask + low
		hit |= a | b | c | d
	}
	for ; len(p) >= k.bytes; p = p[k.bytes:] {
		hit |= k.read(p)&k.exponent + k.exponent&-k.exponent
	}
	return hit&sign == 0
}

// count counts the values that are not finite.
func (k kind) count(p []byte) (nan, inf int64) {
	for ; len(p) >= k.bytes; p = p[k.bytes:] {
		switch x := k.read(p); {
		case x&k.exponent != k.exponent:
		case k.mantissa == 0 || x&k.mantissa != 0:
			nan++
		default:
			inf++
		}
	}
	return nan, inf
}

func (k kind) read(p []byte) uint64 {
	switch k.bytes {
	case 8:
		return binary.LittleEndian.Uint64(p)
	case 4:
		return uint64(binary.LittleEndian.Uint32(p))
	case 2:
		return uint64(binary.LittleEndian.Uint16(p))
	default:
		return uint64(p[0])
	}
}
