package vault

import (
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/vigil-ml/vigil/internal/fault"
)

// Bounds on what one rank may commit.
const (
	maxFiles     = 65536
	maxNameBytes = 1024
	maxDepth     = 16
)

// A checkpoint id has no dot, so that no id reads as a ".partial-" directory.
var (
	runIDForm        = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	checkpointIDForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$`)
)

// CheckRunID gives an error of kind [fault.Invalid] for what is no run id. A
// run id names a directory, and stands in command lines: none looks like an
// option.
func CheckRunID(id string) error {
	if !runIDForm.MatchString(id) {
		return fault.New(fault.Invalid, "run id %.140q is not 1 to 128 letters, digits, '.', '_' or '-', the first a letter or digit", id)
	}
	return nil
}

// CheckCheckpointID gives an error of kind [fault.Invalid] for what is no
// checkpoint id. A checkpoint id names a directory.
func CheckCheckpointID(id string) error {
	if !checkpointIDForm.MatchString(id) || id == latestName {
		return fault.New(fault.Invalid,
			"checkpoint id %.140q is not 1 to 128 letters, digits, '_' or '-', or is %q", id, latestName)
	}
	return nil
}

// checkFileName refuses what could leave its directory or not be written down:
// a name is slash-separated, relative, clean and printable.
func checkFileName(name string) error {
	switch {
	case !fs.ValidPath(name) || name == ".":
		return fault.New(fault.Invalid, "file name %.140q is not a clean relative path", name)
	case len(name) > maxNameBytes:
		return fault.New(fault.Invalid, "file name %.140q... has %d bytes; at most %d", name, len(name), maxNameBytes)
	case strings.Count(name, "/") >= maxDepth:
		return fault.New(fault.Invalid, "file name %.140q lies deeper than %d directories", name, maxDepth)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return fault.New(fault.Invalid, "file name %.140q holds control characters or is not UTF-8", name)
	}
	return nil
}

// rankName names a rank's directory.
func rankName(rank uint32) string { return fmt.Sprintf("rank-%05d", rank) }

// parseRank reads a rank's directory name back; only what rankName gives.
func parseRank(name string) (uint32, bool) {
	var rank uint32
	if _, err := fmt.Sscanf(name, "rank-%d", &rank); err != nil || rankName(rank) != name {
		return 0, false
	}
	return rank, true
}

// pathSafe turns a node's name into one path element.
func pathSafe(node string) string {
	safe := strings.Map(func(r rune) rune {
		if r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '.') {
			return r
		}
		return '_'
	}, node)
	return "node-" + safe
}
