package data

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/parquet-go/parquet-go"

	"github.com/vigil-ml/vigil/internal/fault"
)

const (
	maxColumns = 1 << 14
	rowsAtOnce = 512
)

// raw is a table as its file has it: every value as text, "" where there is none.
type raw struct {
	path    string
	columns []string
	values  [][]string // by column
	rows    int
}

// column finds a column; nil when there is none.
func (r *raw) column(name string) []string {
	for i, column := range r.columns {
		if column == name {
			return r.values[i]
		}
	}
	return nil
}

func (r *raw) add(row []string) {
	for i, value := range row {
		r.values[i] = append(r.values[i], value)
	}
	r.rows++
}

// read reads a file of a kind.
func read(kind, path string) (*raw, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fault.Mark(fault.NotFound, fmt.Errorf("open data: %w", err))
	}
	defer func() { _ = file.Close() }()
	r := &raw{path: path}
	if kind == "parquet" {
		err = r.parquet(file)
	} else {
		err = r.csv(file)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", path, err)
	case r.rows == 0:
		return nil, fault.New(fault.Invalid, "read %s: there are no rows", path)
	}
	return r, nil
}

// csv reads RFC 4180 with a header.
func (r *raw) csv(file io.Reader) error {
	rows := csv.NewReader(file)
	rows.ReuseRecord, rows.TrimLeadingSpace = true, true
	header, err := rows.Read()
	if err != nil {
		return fault.Mark(fault.Invalid, fmt.Errorf("header: %w", err))
	}
	if err := r.head(header); err != nil {
		return err
	}
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fault.Mark(fault.Invalid, err)
		}
		for i := range row {
			row[i] = strings.TrimSpace(row[i])
		}
		r.add(row)
	}
}

func (r *raw) head(header []string) error {
	if len(header) > maxColumns {
		return fault.New(fault.Invalid, "there are %d columns; at most %d", len(header), maxColumns)
	}
	for _, column := range header {
		column = strings.TrimSpace(column)
		if r.column(column) != nil {
			return fault.New(fault.Invalid, "two columns are called %q", column)
		}
		r.columns, r.values = append(r.columns, column), append(r.values, []string{})
	}
	return nil
}

// parquet reads a file whose columns are flat.
func (r *raw) parquet(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	opened, err := parquet.OpenFile(file, info.Size())
	if err != nil {
		return fault.Mark(fault.Corrupt, err)
	}
	var header []string
	for _, path := range opened.Schema().Columns() {
		header = append(header, strings.Join(path, "."))
	}
	if err := r.head(header); err != nil {
		return err
	}
	for _, group := range opened.RowGroups() {
		if err := r.group(group); err != nil {
			return fault.Mark(fault.Corrupt, err)
		}
	}
	return nil
}

func (r *raw) group(group parquet.RowGroup) (err error) {
	rows := group.Rows()
	defer func() { err = errors.Join(err, rows.Close()) }()
	room, row := make([]parquet.Row, rowsAtOnce), make([]string, len(r.columns))
	for {
		n, err := rows.ReadRows(room)
		for _, values := range room[:n] {
			if len(values) != len(row) {
				return fault.New(fault.Invalid, "row %d has %d values for %d columns; lists are not read", r.rows+1, len(values), len(row))
			}
			clear(row)
			for _, value := range values {
				if !value.IsNull() {
					row[value.Column()] = value.String()
				}
			}
			r.add(row)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
