// Package output takes what a training command prints: it passes it on, keeps
// it in files of bounded size, and shows it to whoever looks for signs in it.
//
// Nothing that goes wrong with the files holds the command up: what cannot be
// kept is counted and passed on all the same.
package output

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/vigil-ml/vigil/internal/fault"
	"github.com/vigil-ml/vigil/internal/redact"
)

// maxLine bounds a line that is held back to be masked, in bytes; a longer one
// goes in pieces.
const maxLine = 64 << 10

// Config is what is kept. Its zero value keeps nothing.
type Config struct {
	Dir      string `yaml:"dir"`       // of the files; empty: none are written
	MaxBytes int64  `yaml:"max_bytes"` // of one file
	Files    int    `yaml:"files"`     // that are kept, the one in use among them
	// Secrets are masked: passwords, tokens, keys.
	Secrets bool `yaml:"secrets"`
	// Personal data is masked: e-mail and IP addresses.
	Personal bool `yaml:"personal"`
}

// Defaults keeps nothing; with a directory, four files of 64 MiB.
func Defaults() Config { return Config{MaxBytes: 64 << 20, Files: 4} }

// Check reports bounds that cannot be.
func (c Config) Check(report func(key, format string, args ...any)) {
	if c.MaxBytes < 1 || c.Files < 1 {
		report("max_bytes", "is %d in %d files; want at least 1 of each", c.MaxBytes, c.Files)
	}
}

// Capture is the output of one run. Make one with New and Close it. It is safe
// for concurrent use.
type Capture struct {
	config Config
	mask   redact.Redactor
	log    *slog.Logger

	mu      sync.Mutex
	path    string   // empty: nothing is kept, or no more
	file    *os.File // nil: it could not be opened anew
	size    int64
	failed  bool
	dropped int64
}

// New opens the file of a run, after what is there. It fails with fault.Invalid
// when the bounds are wrong.
func New(config Config, runID string, log *slog.Logger) (*Capture, error) {
	// Without patterns of the user's it cannot fail.
	mask, _ := redact.New(redact.Config{Secrets: config.Secrets, Mail: config.Personal, Addresses: config.Personal})
	c := &Capture{config: config, mask: mask, log: log}
	if config.Dir == "" {
		return c, nil
	}
	var wrong error
	config.Check(func(key, format string, args ...any) {
		wrong = fault.New(fault.Invalid, "output: %s %s", key, fmt.Sprintf(format, args...))
	})
	if wrong != nil {
		return nil, wrong
	}
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of output: %w", err)
	}
	c.path = filepath.Join(config.Dir, runID+".log")
	if err := c.open(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Capture) open() error {
	file, err := os.OpenFile(c.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open output file: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		_ = file.Close()
		return fmt.Errorf("open output file: %w", err)
	}
	c.file, c.size = file, info.Size()
	return nil
}

// Note writes a line of the supervisor's own into the file.
func (c *Capture) Note(format string, args ...any) {
	c.keep([]byte("--- " + fmt.Sprintf(format, args...) + "\n"))
}

// Text masks a text as output is.
func (c *Capture) Text(text string) string { return c.mask.Text(text) }

// keep writes to the file and begins a new one when it is full.
func (c *Capture) keep(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.path == "" {
		return
	}
	if err := c.ready(int64(len(p))); err != nil {
		c.fail(err, len(p))
		return
	}
	n, err := c.file.Write(p)
	c.size += int64(n)
	if err != nil {
		c.fail(err, len(p)-n)
		return
	}
	c.failed = false
}

// ready has a file that takes so many bytes more.
func (c *Capture) ready(more int64) error {
	if c.file == nil {
		if err := c.open(); err != nil {
			return err
		}
	}
	if c.size > 0 && c.size+more > c.config.MaxBytes {
		return c.rotate()
	}
	return nil
}

// fail counts what is lost; it is said once, until it works again.
func (c *Capture) fail(err error, lost int) {
	c.dropped += int64(lost)
	if !c.failed {
		c.log.Warn("the command's output is not kept", "path", c.path, "cause", err)
	}
	c.failed = true
}

// rotate moves the files up by one, the oldest away.
func (c *Capture) rotate() error {
	_ = c.file.Close()
	c.file = nil
	_ = os.Remove(c.numbered(c.config.Files - 1))
	for n := c.config.Files - 2; n >= 0; n-- {
		if err := os.Rename(c.numbered(n), c.numbered(n+1)); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("rotate output file: %w", err)
		}
	}
	return c.open()
}

func (c *Capture) numbered(n int) string {
	if n == 0 {
		return c.path
	}
	return fmt.Sprintf("%s.%d", c.path, n)
}

// Close closes the file, and says how much could not be kept.
func (c *Capture) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dropped > 0 {
		c.log.Warn("not all of the command's output was kept", "path", c.path, "lost bytes", c.dropped)
		c.dropped = 0
	}
	c.path = ""
	if c.file == nil {
		return nil
	}
	err := c.file.Close()
	c.file = nil
	return err
}

// Copy takes output from a reader until it ends: it goes to out, to the file,
// and to also, which must not fail. Where something is masked it goes line by
// line. It gives the error of out; of the reader's end none.
func (c *Capture) Copy(out io.Writer, from io.Reader, also io.Writer) error {
	var first error
	pass := func(p []byte) {
		if len(p) == 0 {
			return
		}
		p = c.mask.Bytes(p)
		if _, err := out.Write(p); err != nil && first == nil {
			first = err // the command goes on, and its pipe must be read
		}
		c.keep(p)
		_, _ = also.Write(p)
	}
	buffer := make([]byte, 32<<10)
	var held []byte
	for {
		n, err := from.Read(buffer)
		if !c.mask.Active() {
			pass(buffer[:n])
		} else {
			held = append(held, buffer[:n]...)
			end := bytes.LastIndexAny(held, "\n\r") + 1
			if end == 0 && len(held) > maxLine {
				end = len(held)
			}
			pass(held[:end])
			held = append(held[:0], held[end:]...)
		}
		if err != nil {
			pass(held)
			return first
		}
	}
}
