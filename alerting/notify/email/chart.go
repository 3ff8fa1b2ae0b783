package email

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"math"

	"github.com/vigil-ml/vigil/alerting/alert"
	"github.com/vigil-ml/vigil/alerting/notify"
)

// The chart's size in pixels.
const (
	chartWidth  = 560
	chartHeight = 160
	chartMargin = 6
)

// chart draws the run's loss around the onset and says what it shows. Without
// data, or when that cannot be had in time, there is none: the mail matters
// more.
func (n *notifier) chart(ctx context.Context, d alert.Delivery) (picture []byte, caption string) {
	if n.deps.Series == nil || d.Incident.GetRunId() == "" || d.Incident.GetOpened() == nil {
		return nil, ""
	}
	points, err := n.deps.Series.Loss(ctx, d.Incident.GetRunId(), d.Incident.GetOpened().AsTime())
	if err != nil {
		n.deps.Log.Debug("a mail goes without its chart", "receiver", n.deps.Receiver, "error", err)
		return nil, ""
	}
	plot := newPlot(points)
	if plot == nil {
		return nil, ""
	}
	onset, scale := int64(-1), ""
	if f := d.Finding(); f != nil {
		onset = f.GetOnsetStep()
	}
	var out bytes.Buffer
	if err := png.Encode(&out, plot.draw(onset)); err != nil {
		return nil, ""
	}
	if plot.logarithmic {
		scale = ", logarithmic"
	}
	caption = fmt.Sprintf("Loss from step %d to %d, %.4g to %.4g%s", plot.firstStep, plot.lastStep, plot.low, plot.high, scale)
	if onset >= plot.firstStep && onset <= plot.lastStep {
		caption += fmt.Sprintf("; red: onset, step %d", onset)
	}
	return out.Bytes(), caption
}

// plot is a line to draw.
type plot struct {
	points              []notify.Point
	firstStep, lastStep int64
	low, high           float64 // of the finite values
	logarithmic         bool
}

// newPlot is nil when there are not two finite values to draw a line between.
func newPlot(points []notify.Point) *plot {
	p := &plot{points: points, low: math.Inf(1), high: math.Inf(-1)}
	finite := 0
	for _, point := range points {
		if math.IsNaN(point.Loss) || math.IsInf(point.Loss, 0) {
			continue
		}
		finite++
		p.low, p.high = min(p.low, point.Loss), max(p.high, point.Loss)
	}
	if finite < 2 {
		return nil
	}
	p.firstStep, p.lastStep = points[0].Step, points[len(points)-1].Step
	p.logarithmic = p.low > 0 && p.high/p.low > 50
	return p
}

// x and y are where a step and a loss lie.
func (p *plot) x(step int64) float64 {
	span := float64(max(1, p.lastStep-p.firstStep))
	return chartMargin + float64(step-p.firstStep)/span*(chartWidth-2*chartMargin)
}

func (p *plot) y(loss float64) float64 {
	low, high := p.low, p.high
	if p.logarithmic {
		low, high, loss = math.Log(low), math.Log(high), math.Log(loss)
	}
	share := 0.5
	if high > low {
		share = (loss - low) / (high - low)
	}
	return chartHeight - chartMargin - share*(chartHeight-2*chartMargin)
}

func (p *plot) draw(onset int64) image.Image {
	img := image.NewRGBA(image.Rect(0, 0, chartWidth, chartHeight))
	draw.Draw(img, img.Bounds(), image.NewUniform(color.RGBA{0xf7, 0xf7, 0xf7, 0xff}), image.Point{}, draw.Src)
	for _, share := range []float64{0, 0.25, 0.5, 0.75, 1} {
		y := chartMargin + share*(chartHeight-2*chartMargin)
		line(img, chartMargin, y, chartWidth-chartMargin, y, 1, color.RGBA{0xdd, 0xdd, 0xdd, 0xff})
	}
	if onset >= p.firstStep && onset <= p.lastStep {
		line(img, p.x(onset), 0, p.x(onset), chartHeight, 2, color.RGBA{0xc9, 0x30, 0x2c, 0xff})
	}
	blue := color.RGBA{0x2f, 0x5f, 0x95, 0xff}
	for i := 1; i < len(p.points); i++ {
		a, b := p.points[i-1], p.points[i]
		// A value that is not finite leaves a gap.
		if math.IsNaN(a.Loss+b.Loss) || math.IsInf(a.Loss, 0) || math.IsInf(b.Loss, 0) {
			continue
		}
		line(img, p.x(a.Step), p.y(a.Loss), p.x(b.Step), p.y(b.Loss), 2, blue)
	}
	return img
}

// line draws by small steps, each a square of the line's width.
func line(img *image.RGBA, x0, y0, x1, y1 float64, width int, c color.Color) {
	steps := int(max(math.Abs(x1-x0), math.Abs(y1-y0))*2) + 1
	steps = min(steps, 4*chartWidth)
	for i := range steps + 1 {
		share := float64(i) / float64(steps)
		x, y := int(x0+(x1-x0)*share), int(y0+(y1-y0)*share)
		draw.Draw(img, image.Rect(x, y, x+width, y+width), image.NewUniform(c), image.Point{}, draw.Src)
	}
}
