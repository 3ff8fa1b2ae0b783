package supervise

import (
	"io"

	"github.com/vigil-ml/vigil/trainer"
	"github.com/vigil-ml/vigil/trainer/logline"
)

// losses reports what the command prints about its loss, until the command
// reports its steps itself: what it prints is the same again, and rounded. It
// is told by the progress that every SDK leaves.
type losses struct {
	reader *logline.Reader
	pulse  *pulse
}

func (s *supervisor) losses(exitFile string) losses {
	silent, p := false, &pulse{}
	return losses{pulse: p, reader: logline.NewReader(func(found logline.Found) {
		if !silent {
			_, silent = trainer.ReadProgress(exitFile)
		}
		switch {
		case silent:
		case found.Step != nil:
			p.stepped(found.Step.Step)
			s.session.Step(*found.Step)
		default:
			s.session.Evaluated(*found.Evaluation)
		}
	})}
}

// with shows an output also to the reader.
func (l losses) with(also io.Writer) io.Writer {
	return io.MultiWriter(also, l.pulse, l.reader.Stream())
}
