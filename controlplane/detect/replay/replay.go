package replay

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

// Detection is a finding and the row that led to it.
type Detection struct {
	Row     int     // counted from 0, after the header
	Time    float64 // seconds, by the trace's clock
	Finding *controlv1.Finding
}

// Result is what the rules find in one trace.
type Result struct {
	Trace      string
	Rows       int  // rows that were read
	Ranked     bool // rows name their ranks
	Detections []Detection
	Damaged    int      // lines that could not be read
	Damage     []Damage // the first of them
}

// Run reads a trace to its end. With an error, the result has what was found
// before it.
func Run(name string, from io.Reader, rules []detect.Rule, nodes ...detect.NodeRule) (Result, error) {
	reader, bank := NewReader(name, from), detect.NewBank(rules).WatchNodes(nodes)
	result := Result{Trace: name}
	for {
		row, err := reader.Next()
		if err != nil {
			result.Trace, result.Ranked = reader.Name(), reader.Ranked()
			result.Damaged, result.Damage = reader.Damaged()
			if errors.Is(err, io.EOF) {
				return result, nil
			}
			return result, err
		}
		result.Rows++
		for _, finding := range bank.Observe(row.Event) {
			result.Detections = append(result.Detections, Detection{row.Index, row.Time, finding})
		}
	}
}

// File runs the rules over a file, which is gzipped if its name ends in ".gz".
func File(path string, rules []detect.Rule, nodes ...detect.NodeRule) (result Result, err error) {
	file, err := os.Open(path)
	if err != nil {
		return Result{}, fmt.Errorf("open trace: %w", err)
	}
	defer func() { _ = file.Close() }()
	var from io.Reader = file
	name := filepath.Base(path)
	if plain, ok := strings.CutSuffix(name, ".gz"); ok {
		name = plain
		unzipped, err := gzip.NewReader(file)
		if err != nil {
			return Result{}, fault.New(fault.Invalid, "read trace %s: it is not gzipped, though its name says so: %v", path, err)
		}
		from = unzipped
	}
	result, err = Run(strings.TrimSuffix(name, ".jsonl"), from, rules, nodes...)
	if err != nil {
		return result, fmt.Errorf("read trace %s: %w", path, err)
	}
	return result, nil
}

// Files gives the traces that paths name: files as they are, and the .jsonl
// and .jsonl.gz files of directories, by name.
func Files(paths ...string) ([]string, error) {
	var files []string
	for _, path := range paths {
		info, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil, fault.New(fault.NotFound, "there is no file %s", path)
		}
		if err != nil {
			return nil, fmt.Errorf("look at %s: %w", path, err)
		}
		if !info.IsDir() {
			files = append(files, path)
			continue
		}
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, fmt.Errorf("list traces: %w", err)
		}
		before := len(files)
		for _, entry := range entries {
			name := entry.Name()
			if !entry.IsDir() && (strings.HasSuffix(name, ".jsonl") || strings.HasSuffix(name, ".jsonl.gz")) {
				files = append(files, filepath.Join(path, name))
			}
		}
		if len(files) == before {
			return nil, fault.New(fault.NotFound, "directory %s has no .jsonl or .jsonl.gz file", path)
		}
		slices.Sort(files[before:])
	}
	return files, nil
}
