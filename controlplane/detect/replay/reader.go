// Package replay runs the detection rules over recorded runs: the same code
// and the same events that a live run has, read from a file.
//
// A trace is JSON lines, plain or gzipped. The first line may be a header, an
// object without a step; then each line is a row: a report of one step, or,
// with "heartbeat", word that no step has finished. docs/formats/trace.md has
// the fields. A line may also be an event as the product writes it, which is
// how events of nodes are replayed.
package replay

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	commonv1 "github.com/vigil-ml/vigil/proto/vigil/common/v1"
)

// maxLine is how long a line may be, in bytes; a longer one ends the reading.
const maxLine = 1 << 20

// Row is one line of a trace.
type Row struct {
	Index int     // counted from 0, after the header; damaged lines count
	Time  float64 // seconds, by the trace's clock
	Event *commonv1.Event
}

// Damage is a line that could not be read.
type Damage struct {
	Line int // counted from 1
	Why  string
}

// Reader reads the rows of a trace. It is used by one goroutine.
type Reader struct {
	lines   *bufio.Scanner
	name    string
	line    int
	index   int
	ranked  bool
	damaged int
	first   []Damage
}

// damageKept is how many damaged lines are kept by name.
const damageKept = 8

// NewReader makes a reader; name stands for the trace where it has no header.
func NewReader(name string, from io.Reader) *Reader {
	lines := bufio.NewScanner(from)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	return &Reader{lines: lines, name: name}
}

// Name is the trace's name: the header's, which is known after the first row.
func (r *Reader) Name() string { return r.name }

// Ranked tells whether the rows read so far name their ranks.
func (r *Reader) Ranked() bool { return r.ranked }

// Damaged gives the number of damaged lines so far, and the first few of them.
func (r *Reader) Damaged() (int, []Damage) { return r.damaged, r.first }

// Next gives the next row that can be read; io.EOF at the end. A damaged line
// is counted and passed over. Any other error ends the trace.
func (r *Reader) Next() (Row, error) {
	for r.lines.Scan() {
		r.line++
		text := bytes.TrimSpace(r.lines.Bytes())
		if len(text) == 0 {
			continue
		}
		if r.line == 1 && !isEvent(text) && r.header(text) {
			continue
		}
		index := r.index
		r.index++
		read := r.row
		if isEvent(text) {
			read = eventRow
		}
		row, err := read(text)
		if err != nil {
			r.damage(err)
			continue
		}
		row.Index = index
		return row, nil
	}
	if err := r.lines.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			err = fmt.Errorf("it is longer than %d bytes", maxLine)
		}
		return Row{}, fmt.Errorf("read line %d: %w", r.line+1, err)
	}
	return Row{}, io.EOF
}

func (r *Reader) damage(err error) {
	if r.damaged++; len(r.first) < damageKept {
		r.first = append(r.first, Damage{r.line, err.Error()})
	}
}

// header takes the first line if it is one.
func (r *Reader) header(text []byte) bool {
	var h struct {
		Trace string           `json:"trace"`
		Step  *json.RawMessage `json:"step"`
	}
	if json.Unmarshal(text, &h) != nil || h.Step != nil {
		return false
	}
	if h.Trace != "" {
		r.name = h.Trace
	}
	return true
}

// fields is a row as it is written.
type fields struct {
	Heartbeat   bool     `json:"heartbeat"`
	Step        *int64   `json:"step"`
	Time        number   `json:"t"`
	Rank        *uint32  `json:"rank"`
	Node        string   `json:"node"`
	Loss        *number  `json:"loss"`
	Gradient    *number  `json:"grad_norm"`
	Rate        *number  `json:"lr"`
	StepTime    *number  `json:"step_time_s"`
	DataTime    *number  `json:"data_time_s"`
	ComputeTime *number  `json:"compute_time_s"`
	CommTime    *number  `json:"comm_time_s"`
	Resident    *int64   `json:"rss_bytes"`
	GPUMemory   *int64   `json:"gpu_mem_bytes"`
	Utilization *float64 `json:"device_util"`
	Tokens      *int64   `json:"tokens"`
	Samples     *int64   `json:"samples"`
}

// number is a JSON number, or one of the strings "NaN", "Infinity" and
// "-Infinity", which JSON has no numbers for.
type number float64

// UnmarshalJSON reads either form.
func (n *number) UnmarshalJSON(text []byte) error {
	switch s := string(text); s {
	case "null":
	case `"NaN"`:
		*n = number(math.NaN())
	case `"Infinity"`:
		*n = number(math.Inf(1))
	case `"-Infinity"`:
		*n = number(math.Inf(-1))
	default:
		v, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return fmt.Errorf(`%s is no number; want one, or "NaN", "Infinity", "-Infinity"`, s)
		}
		*n = number(v)
	}
	return nil
}

// maxSeconds is the greatest time that a row may have: a bit over 300,000 years.
const maxSeconds = 1e13

func (r *Reader) row(text []byte) (Row, error) {
	var f fields
	if err := json.Unmarshal(text, &f); err != nil {
		return Row{}, err
	}
	t := float64(f.Time)
	switch {
	case f.Step == nil:
		return Row{}, errors.New(`it has no "step"`)
	case *f.Step < 0:
		return Row{}, fmt.Errorf("step is %d; want 0 or more", *f.Step)
	case math.IsNaN(t) || math.Abs(t) > maxSeconds:
		return Row{}, fmt.Errorf("t is %v; want seconds", t)
	}
	event := &commonv1.Event{RunId: r.name, Node: f.Node, Time: stamp(t)}
	if f.Rank != nil {
		event.Rank, r.ranked = *f.Rank, true
	}
	if f.Heartbeat {
		event.Body = &commonv1.Event_Tick{Tick: &commonv1.Tick{LastStep: *f.Step}}
	} else {
		event.Body = &commonv1.Event_Step{Step: f.report()}
	}
	return Row{Time: t, Event: event}, nil
}

func (f *fields) report() *commonv1.StepReport {
	return &commonv1.StepReport{
		Step: *f.Step, Loss: (*float64)(f.Loss), GradientNorm: (*float64)(f.Gradient), LearningRate: (*float64)(f.Rate),
		StepSeconds: (*float64)(f.StepTime), DataSeconds: (*float64)(f.DataTime),
		ComputeSeconds: (*float64)(f.ComputeTime), CommunicationSeconds: (*float64)(f.CommTime),
		ResidentBytes: f.Resident, GpuMemoryBytes: f.GPUMemory, DeviceUtilization: f.Utilization,
		Tokens: f.Tokens, Samples: f.Samples,
	}
}

// stamp is a time by the trace's clock, whose zero is that of Unix time.
func stamp(seconds float64) *timestamppb.Timestamp {
	whole, part := math.Modf(seconds)
	return timestamppb.New(time.Unix(int64(whole), int64(math.Round(part*1e9))))
}
