package replay

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/vigil-ml/vigil/controlplane/detect"
	"github.com/vigil-ml/vigil/internal/fault"
	controlv1 "github.com/vigil-ml/vigil/proto/vigil/control/v1"
)

const (
	// exportVersion is that of the format; docs/formats/export.md.
	exportVersion = 1
	// maxRecord is how long a line of an export may be, in bytes.
	maxRecord = 16 << 20
)

// exportBegin is how an export begins, and no trace does.
const exportBegin = `{"header":`

// WriteRecord writes a record of an export as one line.
func WriteRecord(to io.Writer, record *controlv1.ExportRecord) error {
	text, err := protojson.Marshal(record)
	if err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	var line bytes.Buffer // protojson varies its spaces on purpose
	if err := json.Compact(&line, text); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	line.WriteByte('\n')
	_, err = to.Write(line.Bytes())
	return err
}

// Header gives the header of an export of a run.
func Header(run *controlv1.Run, settings string) *controlv1.ExportHeader {
	return &controlv1.ExportHeader{Version: exportVersion, Run: run, SettingsYaml: settings}
}

// RulesFor gives the rules for a recording: settings are those that an export
// says held for its run, empty for a trace.
type RulesFor func(settings string) ([]detect.Rule, []detect.NodeRule, error)

// runExport runs rules over an export.
func runExport(from io.Reader, rulesFor RulesFor) (Result, error) {
	lines := bufio.NewScanner(from)
	lines.Buffer(make([]byte, 0, 64<<10), maxRecord)
	header, err := readHeader(lines)
	if err != nil {
		return Result{}, err
	}
	rules, nodes, err := rulesFor(header.GetSettingsYaml())
	if err != nil {
		return Result{}, err
	}
	e := &export{bank: detect.NewBank(rules).WatchNodes(nodes), result: Result{
		Trace: header.GetRun().GetRunId(), Exported: true, Ranked: header.GetRun().GetWorldSize() > 1,
	}}
	for number := 2; lines.Scan(); number++ {
		if text := bytes.TrimSpace(lines.Bytes()); len(text) > 0 {
			if err := e.line(text); err != nil {
				e.damaged(number, err)
			}
		}
	}
	if err := lines.Err(); err != nil {
		return e.result, fmt.Errorf("read export: %w", err)
	}
	return e.result, nil
}

func readHeader(lines *bufio.Scanner) (*controlv1.ExportHeader, error) {
	if !lines.Scan() {
		return nil, fmt.Errorf("read header: %w", errors.Join(lines.Err(), io.ErrUnexpectedEOF))
	}
	record := &controlv1.ExportRecord{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(lines.Bytes(), record); err != nil {
		return nil, fault.New(fault.Invalid, "read header: %v", err)
	}
	if version := record.GetHeader().GetVersion(); version != exportVersion {
		return nil, fault.WithHint(fault.New(fault.Invalid, "the export has version %d; this program reads %d", version, exportVersion),
			"read it with the agentctl that wrote it, or a newer one")
	}
	return record.GetHeader(), nil
}

// export is a replay that goes on.
type export struct {
	bank   *detect.Bank
	begun  time.Time // when its first event happened
	result Result
}

// line takes a finding that was recorded, or observes an event.
func (e *export) line(text []byte) error {
	record := &controlv1.ExportRecord{}
	// An event of a newer agent may have what this program does not know.
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(text, record); err != nil {
		return err
	}
	switch {
	case record.GetFinding() != nil:
		e.result.Recorded = append(e.result.Recorded, record.GetFinding())
		return nil
	case record.GetEvent().GetEvent() == nil:
		return errors.New("it is neither an event nor a finding")
	}
	event := record.GetEvent().GetEvent()
	at := event.GetTime().AsTime()
	if e.begun.IsZero() {
		e.begun = at
	}
	for _, finding := range e.bank.Observe(event) {
		e.result.Detections = append(e.result.Detections, Detection{e.result.Rows, at.Sub(e.begun).Seconds(), finding})
	}
	e.result.Rows++
	return nil
}

func (e *export) damaged(number int, err error) {
	if e.result.Damaged++; len(e.result.Damage) < damageKept {
		e.result.Damage = append(e.result.Damage, Damage{number, err.Error()})
	}
}

// Again tells whether the replay finds what was recorded: the same finding, or
// one of the same kind, rank and attempt whose time from onset to sight
// overlaps with it, since other settings see a problem sooner or later.
func (r *Result) Again(recorded *controlv1.Finding) (*controlv1.Finding, bool) {
	for _, d := range r.Detections {
		if d.Finding.GetFindingId() == recorded.GetFindingId() {
			return d.Finding, true
		}
	}
	for _, d := range r.Detections {
		f := d.Finding
		if f.GetKind() == recorded.GetKind() && f.GetAttempt() == recorded.GetAttempt() && f.GetRank() == recorded.GetRank() &&
			f.GetOnsetStep() <= recorded.GetStep() && recorded.GetOnsetStep() <= f.GetStep() {
			return f, true
		}
	}
	return nil, false
}
