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
}

func (s *supervisor) losses(exitFile string) losses {
	silent := false
	return losses{logline.NewReader(func(found logline.Found) {
		if !silent {
			_, silent = trainer.ReadProgress(exitFile)
		}
		switch {
		case silent:
		case found.Step != nil:
			s.session.Step(*found.Step)
		default:
			s.session.Evaluated(*found.Evaluation)
		}
	})}
}

// with shows an output also to the reader.
func (l losses) with(also io.Writer) io.Writer { return io.MultiWriter(also, l.reader.Stream()) }
