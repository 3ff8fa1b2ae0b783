package study

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/vigil-ml/vigil/trainer/multitask/score"
)

// Sizes of a figure, in pixels.
const (
	width, height           = 760, 420
	left, right, top, below = 64, 230, 40, 48
	legendLine              = 18
)

// colours are told apart by people who do not see all of them (Wong, Nature
// Methods 2011), and then repeat with other strokes.
func colours() []string {
	return []string{"#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"}
}

// curve is one method's mean over seeds, with the bounds of its interval.
type curve struct {
	steps           []float64
	mean, low, high []float64
}

// Figure draws, as SVG, how the sum of normalized losses went: the mean over
// seeds and its 95 % confidence interval.
func Figure(w io.Writer, title string, all []Outcome) error {
	var curves []curve
	most, lowest, highest := 0.0, math.Inf(1), math.Inf(-1)
	for _, o := range all {
		c := curveOf(o)
		curves = append(curves, c)
		for i := range c.steps {
			most, lowest, highest = max(most, c.steps[i]), min(lowest, c.low[i]), max(highest, c.high[i])
		}
	}
	lowest = math.Max(lowest, 1e-4)
	x := func(step float64) float64 { return left + step/most*(width-left-right) }
	// A logarithmic axis: what is twice as low looks so everywhere.
	y := func(value float64) float64 {
		share := math.Log(math.Max(value, lowest)/lowest) / math.Log(highest/lowest)
		return height - below - share*(height-top-below)
	}
	var b bytes.Buffer
	_, _ = fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	_, _ = fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/><text x="%d" y="22" font-size="14">%s</text>`+"\n", width, height, left, escape(title))
	axes(&b, x, y, most, lowest, highest)
	for i, c := range curves {
		draw(&b, i, c, x, y, all[i].Method.String())
	}
	b.WriteString("</svg>\n")
	if _, err := w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("write figure: %w", err)
	}
	return nil
}

func curveOf(o Outcome) curve {
	var c curve
	for i, point := range o.Runs[0] {
		var values []float64
		for _, run := range o.Runs {
			values = append(values, Normalized(run, min(i, len(run)-1)))
		}
		mean, half := score.Interval(values)
		c.steps = append(c.steps, float64(point.Step))
		c.mean, c.low, c.high = append(c.mean, mean), append(c.low, mean-half), append(c.high, mean+half)
	}
	return c
}

// axes draws lines at 1, 2 and 5 of every power of ten, at more digits where the
// axis is shorter than that, and at fifths of the steps.
func axes(b *bytes.Buffer, x, y func(float64) float64, most, lowest, highest float64) {
	digits := []float64{1, 2, 5}
	if highest < 10*lowest {
		digits = []float64{1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9}
	}
	for power := math.Floor(math.Log10(lowest)); power <= math.Ceil(math.Log10(highest)); power++ {
		for _, digit := range digits {
			if value := digit * math.Pow(10, power); value >= lowest && value <= highest {
				_, _ = fmt.Fprintf(b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%g</text>`+"\n",
					left, width-right, y(value), y(value), left-8, y(value)+4, value)
			}
		}
	}
	for i := range 6 {
		step := most * float64(i) / 5
		_, _ = fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle">%.0f</text>`+"\n", x(step), height-below+18, step)
	}
	_, _ = fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="middle">step</text>`+"\n", (left+width-right)/2, height-10)
}

func draw(b *bytes.Buffer, i int, c curve, x, y func(float64) float64, name string) {
	colour, dash := colours()[i%len(colours())], []string{"", "6 3", "2 2"}[i/len(colours())%3]
	var line, band strings.Builder
	for k, step := range c.steps {
		_, _ = fmt.Fprintf(&line, "%.1f,%.1f ", x(step), y(c.mean[k]))
		_, _ = fmt.Fprintf(&band, "%.1f,%.1f ", x(step), y(c.high[k]))
	}
	for k := len(c.steps) - 1; k >= 0; k-- {
		_, _ = fmt.Fprintf(&band, "%.1f,%.1f ", x(c.steps[k]), y(c.low[k]))
	}
	_, _ = fmt.Fprintf(b, `<polygon points="%s" fill="%s" opacity="0.15"/>`+"\n", strings.TrimSpace(band.String()), colour)
	_, _ = fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="1.5" stroke-dasharray="%s"/>`+"\n",
		strings.TrimSpace(line.String()), colour, dash)
	at := top + 6 + i*legendLine
	_, _ = fmt.Fprintf(b, `<line x1="%d" x2="%d" y1="%d" y2="%d" stroke="%s" stroke-width="2" stroke-dasharray="%s"/><text x="%d" y="%d" font-size="11">%s</text>`+"\n",
		width-right+12, width-right+36, at, at, colour, dash, width-right+42, at+4, escape(short(name)))
}

// short cuts text to what the legend has room for.
func short(text string) string {
	const most = 34
	if len(text) > most {
		return text[:most] + "..."
	}
	return text
}

// escape makes text fit for SVG.
func escape(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)
}
