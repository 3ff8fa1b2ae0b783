package main

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

// style is how a piece of text looks in a terminal.
type style string

const (
	plainStyle style = ""
	good       style = "32"
	warn       style = "33"
	bad        style = "31"
	faint      style = "2"
	strong     style = "1"
)

// cell is one piece of a row.
type cell struct {
	text  string
	style style
}

// page is text for people as it is put together.
type page struct {
	out   bytes.Buffer
	width int // columns of the terminal; 0 when there is none
	color bool
	wide  bool // show everything
}

func newPage(width int, color, wide bool) *page { return &page{width: width, color: color, wide: wide} }

func (p *page) bytes() []byte { return p.out.Bytes() }

// paint gives text its style.
func (p *page) paint(c cell) string {
	if !p.color || c.style == plainStyle || c.text == "" {
		return c.text
	}
	return "\x1b[" + string(c.style) + "m" + c.text + "\x1b[0m"
}

// line writes pieces with two spaces between, leaving out empty ones.
func (p *page) line(cells ...cell) {
	var parts []string
	for _, c := range cells {
		if c.text != "" {
			parts = append(parts, p.paint(c))
		}
	}
	p.out.WriteString(strings.Join(parts, "  ") + "\n")
}

// text writes a sentence below an indentation, broken between words where the
// terminal ends.
func (p *page) text(indent int, c cell) {
	margin := strings.Repeat(" ", indent)
	for _, line := range wrap(c.text, p.width-indent) {
		p.out.WriteString(margin + p.paint(cell{line, c.style}) + "\n")
	}
}

// section writes a heading with space above.
func (p *page) section(title string) {
	p.out.WriteByte('\n')
	p.line(cell{title, strong})
}

// wrap breaks text between words into lines of at most width columns; with no
// room to speak of it stays one line.
func wrap(text string, width int) []string {
	if width < 20 || utf8.RuneCountInString(text) <= width {
		return []string{text}
	}
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// column is one column of a table.
type column struct {
	head  string
	right bool // numbers stand on the right
	wide  bool // only with -o wide
}

// table writes rows below their heads. Where the terminal is too narrow the
// last column is cut.
func (p *page) table(indent int, columns []column, rows [][]cell) {
	lines := [][]cell{nil}
	for _, col := range columns {
		lines[0] = append(lines[0], cell{col.head, faint})
	}
	lines = append(lines, rows...)
	widths := make([]int, len(columns))
	for _, line := range lines {
		for i, c := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	for _, line := range lines {
		p.row(indent, columns, widths, line)
	}
}

func (p *page) row(indent int, columns []column, widths []int, cells []cell) {
	var shown []int
	for i, col := range columns {
		if !col.wide || p.wide {
			shown = append(shown, i)
		}
	}
	p.out.WriteString(strings.Repeat(" ", indent))
	at := indent
	for n, i := range shown {
		c := cells[i]
		last := n == len(shown)-1
		if last && p.width > 0 {
			c.text = cut(c.text, p.width-at)
		}
		pad := strings.Repeat(" ", max(widths[i]-utf8.RuneCountInString(c.text), 0))
		switch {
		case columns[i].right:
			p.out.WriteString(pad + p.paint(c))
		case last:
			p.out.WriteString(p.paint(c))
		default:
			p.out.WriteString(p.paint(c) + pad)
		}
		if !last {
			p.out.WriteString("  ")
		}
		at += widths[i] + 2
	}
	p.out.WriteByte('\n')
}

// cut shortens text to a number of columns, if that leaves something to read.
func cut(text string, columns int) string {
	if columns < 8 || utf8.RuneCountInString(text) <= columns {
		return text
	}
	return string([]rune(text)[:columns-1]) + "…"
}

// write adds formatted text.
func (p *page) write(text string, args ...any) { fmt.Fprintf(&p.out, text, args...) }
