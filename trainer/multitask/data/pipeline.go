package data

import "context"

// Pipeline makes a source's training batches in order. A batch stays until it is
// committed: looked at again it is the same, and without Commit it was never
// consumed. All methods but Work are for one goroutine.
type Pipeline struct {
	source Source
	slots  []slot
	first  int    // the slot of the batch behind the cursor
	ahead  int    // batches that were drawn and not committed
	cursor Cursor // behind the last committed batch
	drawn  Cursor // behind the last drawn one
	work   chan *slot
	async  bool
}

// slot is room for one batch.
type slot struct {
	batch  *Batch
	picks  []int32
	after  Cursor
	filled bool
	ready  chan struct{} // one token when a worker has filled it
}

// NewPipeline makes batches of rows, up to depth of them ahead; at least 1. The
// training makes them itself until Work is called.
func NewPipeline(source Source, rows, depth int, cursor Cursor) *Pipeline {
	shape := source.Shape()
	p := &Pipeline{source: source, cursor: cursor, drawn: cursor, work: make(chan *slot, depth), slots: make([]slot, depth)}
	for i := range p.slots {
		p.slots[i] = slot{
			batch: NewBatch(shape, rows), picks: make([]int32, rows*source.Picks()), ready: make(chan struct{}, 1),
		}
	}
	return p
}

// Async has batches made by goroutines that run Work. Call it before the first
// batch, and Close at the end.
func (p *Pipeline) Async() { p.async = true }

// Work makes batches until Close.
func (p *Pipeline) Work(context.Context) error {
	for s := range p.work {
		p.source.Fill(s.batch, s.picks)
		s.ready <- struct{}{}
	}
	return nil
}

// Close ends the workers. The pipeline gives no batches afterwards.
func (p *Pipeline) Close() {
	p.drain()
	close(p.work)
}

// At gives the batch that comes that many behind the cursor, 0 to below the
// depth. It is valid until it is committed.
func (p *Pipeline) At(i int) *Batch {
	most := i + 1
	if p.async {
		most = len(p.slots)
	}
	for p.ahead < most {
		p.draw()
	}
	s := p.slot(i)
	p.await(s)
	return s.batch
}

func (p *Pipeline) slot(i int) *slot { return &p.slots[(p.first+i)%len(p.slots)] }

// draw names the samples of the next batch and has it made.
func (p *Pipeline) draw() {
	s := p.slot(p.ahead)
	p.source.Draw(&p.drawn, s.picks)
	s.after, s.filled = p.drawn, false
	p.ahead++
	if p.async {
		p.work <- s // has room for every slot
	}
}

// await waits until a batch is there, or makes it.
func (p *Pipeline) await(s *slot) {
	if s.filled {
		return
	}
	if p.async {
		<-s.ready
	} else {
		p.source.Fill(s.batch, s.picks)
	}
	s.filled = true
}

// Commit moves the cursor behind the next n batches, which were looked at.
func (p *Pipeline) Commit(n int) {
	for range n {
		p.At(0)
		p.cursor = p.slot(0).after
		p.first = (p.first + 1) % len(p.slots)
		p.ahead--
	}
}

// Cursor is the position behind the last committed batch.
func (p *Pipeline) Cursor() Cursor { return p.cursor }

// Seek goes on from another position.
func (p *Pipeline) Seek(c Cursor) {
	p.drain()
	p.cursor, p.drawn, p.ahead = c, c, 0
}

// drain waits for the batches that workers have in hand.
func (p *Pipeline) drain() {
	if !p.async {
		return
	}
	for i := range p.ahead {
		p.await(p.slot(i))
	}
}
