package durable

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
)

// A record is a frame around a payload, all integers little-endian:
//
//	magic "VGR1" | payload length uint32 | CRC-32C of the payload uint32 | payload
//
// The magic lets a reader find the next record behind damage.
const (
	recordMagic      = "VGR1"
	recordHeaderSize = 12
	// MaxRecordBytes is the largest payload; a longer length is damage.
	MaxRecordBytes = 64 << 20
)

// AppendRecord appends one record to dst.
func AppendRecord(dst, payload []byte) []byte {
	dst = append(dst, recordMagic...)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(payload)))
	dst = binary.LittleEndian.AppendUint32(dst, crc32.Checksum(payload, crc32.MakeTable(crc32.Castagnoli)))
	return append(dst, payload...)
}

// RecordSize gives the bytes that a payload takes up as a record.
func RecordSize(payloadBytes int) int64 { return int64(recordHeaderSize + payloadBytes) }

// scanBytes is the buffer of a scanner. A spool's reader keeps one for as long as
// it lives.
const scanBytes = 16 << 10

// Scanner reads records and steps over damage. It is for one goroutine.
type Scanner struct {
	r       *bufio.Reader
	payload []byte
	end     int64
	at      int64
	skipped int64
}

// NewScanner reads records from r.
func NewScanner(r io.Reader) *Scanner {
	return &Scanner{r: bufio.NewReaderSize(r, scanBytes)}
}

// Next goes to the next whole record. It gives false at the end of the data; a
// torn last record counts as the end. The error is that of reading alone:
// damage is stepped over and shows in [Scanner.Skipped].
func (s *Scanner) Next() (bool, error) {
	for {
		header, err := s.r.Peek(recordHeaderSize)
		if err != nil {
			return false, s.atEnd(err)
		}
		size := binary.LittleEndian.Uint32(header[4:])
		if !bytes.HasPrefix(header, []byte(recordMagic)) || size > MaxRecordBytes {
			if err := s.resync(); err != nil {
				return false, err
			}
			continue
		}
		sum := binary.LittleEndian.Uint32(header[8:])
		ok, err := s.take(int(size), sum)
		if ok || err != nil {
			return ok, err
		}
	}
}

// take reads the record at hand. A payload that is cut off or does not agree
// with its sum is damage.
func (s *Scanner) take(size int, sum uint32) (bool, error) {
	whole := recordHeaderSize + size
	if whole <= s.r.Size() {
		// Small enough to look at before it is consumed: damage inside it does
		// not hide a record behind it.
		data, err := s.r.Peek(whole)
		if err == nil && crc32.Checksum(data[recordHeaderSize:], crc32.MakeTable(crc32.Castagnoli)) == sum {
			s.payload = append(s.payload[:0], data[recordHeaderSize:]...)
			s.discard(whole)
			s.end = s.at
			return true, nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		return false, s.resync()
	}
	s.discard(recordHeaderSize)
	s.payload = append(s.payload[:0], make([]byte, size)...)
	n, err := io.ReadFull(s.r, s.payload)
	s.at += int64(n)
	if err != nil {
		s.skipped++
		return false, s.atEnd(err)
	}
	if crc32.Checksum(s.payload, crc32.MakeTable(crc32.Castagnoli)) != sum {
		s.skipped++
		return false, nil
	}
	s.end = s.at
	return true, nil
}

// resync counts one piece of damage and goes to the next magic behind it.
func (s *Scanner) resync() error {
	s.skipped++
	s.discard(1)
	for {
		window, err := s.r.Peek(s.r.Size())
		if i := bytes.Index(window, []byte(recordMagic)); i >= 0 {
			s.discard(i)
			return nil
		}
		if err != nil {
			s.discard(len(window))
			return s.atEnd(err)
		}
		s.discard(len(window) - len(recordMagic) + 1)
	}
}

func (s *Scanner) discard(n int) {
	m, _ := s.r.Discard(n)
	s.at += int64(m)
}

// atEnd turns the end of the data into no error; a rest shorter than a header
// is a torn record.
func (s *Scanner) atEnd(err error) error {
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if n := s.r.Buffered(); n > 0 {
		s.skipped++
		s.discard(n)
	}
	return nil
}

// Payload is the record's content; it is valid until the next call of Next.
func (s *Scanner) Payload() []byte { return s.payload }

// End is the offset in bytes behind the last whole record: where a writer goes
// on after a crash.
func (s *Scanner) End() int64 { return s.end }

// Skipped counts the pieces of damage that were stepped over.
func (s *Scanner) Skipped() int64 { return s.skipped }
