package diagnose

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// fingerprintBytes is how much of the digest a fingerprint has.
const fingerprintBytes = 8

// Traceback is an exception that a Python program did not handle.
type Traceback struct {
	Type    string   // for instance "RuntimeError" or "torch.OutOfMemoryError"
	Message string   // its first line
	Frames  []string // "file:line function", the outermost first
}

// String is the exception's last line and the innermost frame.
func (t *Traceback) String() string {
	text := t.Type
	if t.Message != "" {
		text += ": " + t.Message
	}
	if len(t.Frames) > 0 {
		text += " at " + t.Frames[len(t.Frames)-1]
	}
	return clip(text, 400)
}

// Fingerprint is the same for the same exception at the same place, whatever
// numbers and addresses its message has.
func (t *Traceback) Fingerprint() string {
	sum := sha256.New()
	_, _ = fmt.Fprintf(sum, "%s\n%s\n%s", t.Type, steady(t.Message), strings.Join(t.Frames, "\n"))
	return hex.EncodeToString(sum.Sum(nil)[:fingerprintBytes])
}

// steady is a message without what differs from time to time.
func steady(message string) string {
	return regexp.MustCompile(`0x[0-9a-fA-F]+|\d+(\.\d+)?`).ReplaceAllString(message, "#")
}

// Tracebacks reads the tracebacks in a program's output, in order. Launchers put
// the rank before each line; that is left out.
func Tracebacks(output string) []*Traceback {
	var (
		all    []*Traceback
		open   *Traceback
		prefix = regexp.MustCompile(`^(\[?[a-z]*\d+\]?: ?)`) // "[rank0]: ", "[default0]:", "0: " of srun -l
		frame  = regexp.MustCompile(`^\s+File "([^"]+)", line (\d+), in (.+)$`)
		last   = regexp.MustCompile(`^([A-Za-z_][\w.]*)(?::\s?(.*))?$`)
	)
	for line := range strings.SplitSeq(output, "\n") {
		line = strings.TrimRight(line, "\r")
		if m := prefix.FindString(line); m != "" {
			line = line[len(m):]
		}
		switch m := frame.FindStringSubmatch(line); {
		case strings.HasPrefix(line, "Traceback (most recent call last)"):
			open = &Traceback{}
		case open == nil:
		case m != nil:
			open.Frames = append(open.Frames, fmt.Sprintf("%s:%s %s", path.Base(m[1]), m[2], strings.TrimSpace(m[3])))
		case strings.HasPrefix(line, " ") || line == "":
		default:
			if m := last.FindStringSubmatch(line); m != nil {
				open.Type, open.Message = m[1], clip(m[2], 300)
				all = append(all, open)
			}
			open = nil
		}
	}
	return all
}

// Last gives the last traceback that says something of its own: that of a
// launcher only says that a child failed. Nil when there is none.
func Last(all []*Traceback) *Traceback {
	for _, t := range slices.Backward(all) {
		if !slices.Contains([]string{
			"torch.distributed.elastic.multiprocessing.errors.ChildFailedError", "torch.multiprocessing.spawn.ProcessRaisedException",
			"torch.multiprocessing.spawn.ProcessExitedException", "subprocess.CalledProcessError", "SystemExit",
		}, t.Type) {
			return t
		}
	}
	return nil
}
