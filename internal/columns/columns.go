// Package columns is how samples are written down: in the agent's spool, on the
// wire, and in docs/formats/samples.md, which specifies every byte.
//
// A block holds samples of any series and times. Series that were measured at
// the same times are a group: their times and their numbers are written once,
// and behind them one column of values for each series. Measured figures are
// mostly constants, counters and short decimals, so a column holds integers
// where all of its values are exact multiples of a power of ten, and bit
// patterns where they are not. Every float64 comes back bit for bit, NaN
// payloads and -0 among them. A block can be read without any other.
package columns

import (
	"encoding/binary"
	"math"

	"github.com/vigil-ml/vigil/internal/fault"
)

const (
	// MaxPoints bounds the samples of one block, and so the memory that a block
	// of a few bytes can ask for.
	MaxPoints = 1 << 16

	formatPlain = 1
	maxScale    = 9 // digits behind the point that a column of integers can have
)

// Kinds of columns; the header byte's two low bits.
const (
	kindPattern  = 0 // bit patterns, each XOR the one before it
	kindDelta    = 1 // integers, differences
	kindDelta2   = 2 // integers, differences of differences
	kindConstant = 3 // one integer, for every value
)

// Point is one sample.
type Point struct {
	Ref    uint32 // the series' number; >= 1
	TimeMS int64  // milliseconds since 1970
	Value  float64
}

// powersOfTen are 10^0 to 10^maxScale.
func powersOfTen() [maxScale + 1]float64 {
	return [...]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9}
}

// integer gives v * 10^scale where that is an integer that leads back to
// exactly v.
func integer(v, power float64) (int64, bool) {
	x := math.RoundToEven(v * power)
	if !(math.Abs(x) < 1<<53) {
		return 0, false
	}
	return int64(x), math.Float64bits(float64(int64(x))/power) == math.Float64bits(v)
}

func zigzag(x int64) uint64   { return uint64(x<<1) ^ uint64(x>>63) }
func unzigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }

// appendBits packs the low width bits of each word, the first word and the
// lowest bit first, and fills the last byte with zeros.
func appendBits(dst []byte, words []uint64, width int) []byte {
	if width == 0 {
		return dst
	}
	var held uint64
	n := 0 // bits in held
	for _, w := range words {
		held |= w << n
		if n+width < 64 {
			n += width
			continue
		}
		dst = binary.LittleEndian.AppendUint64(dst, held)
		held = w >> (64 - n)
		n += width - 64
	}
	for ; n > 0; n -= 8 {
		dst = append(dst, byte(held))
		held >>= 8
	}
	return dst
}

// packedBytes is what appendBits needs for n words.
func packedBytes(n, width int) int { return (n*width + 7) / 8 }

// bitsAt gives the word of some width that begins at a bit.
func bitsAt(data []byte, bit, width int) uint64 {
	at, shift := bit/8, bit%8
	var low uint64
	if at+8 <= len(data) {
		low = binary.LittleEndian.Uint64(data[at:])
	} else {
		for i, b := range data[at:] {
			low |= uint64(b) << (8 * i)
		}
	}
	low >>= shift
	if shift+width > 64 {
		low |= uint64(data[at+8]) << (64 - shift)
	}
	return low & (1<<width - 1)
}

func corrupt(what string) error {
	return fault.New(fault.Corrupt, "decode samples: %s", what)
}
