package data

import (
	"math/rand/v2"
	"strconv"
)

// epochs draws each of some rows once an epoch, in an order that the seed and
// the epoch decide: nothing but the cursor need be remembered of it.
type epochs struct {
	rows  int
	seed  uint64
	epoch int64 // whose order there is, from 1; 0: none
	order []int32
	pcg   rand.PCG
	rng   *rand.Rand
}

const orderStream = 0x6f72646572 // tells shuffles from all else that is drawn

func (e *epochs) draw(c *Cursor, picks []int32) {
	for i := range picks {
		epoch := c.Drawn/int64(e.rows) + 1
		if epoch != e.epoch || c.Seed != e.seed {
			e.shuffle(c.Seed, epoch)
		}
		picks[i] = e.order[c.Drawn%int64(e.rows)]
		c.Drawn++
	}
}

func (e *epochs) shuffle(seed uint64, epoch int64) {
	if e.order == nil {
		e.order = make([]int32, e.rows)
		e.rng = rand.New(&e.pcg)
	}
	e.seed, e.epoch = seed, epoch
	e.pcg.Seed(seed^orderStream, uint64(epoch))
	for i := range e.order {
		j := e.rng.IntN(i + 1)
		e.order[i], e.order[j] = e.order[j], int32(i)
	}
}

func name(i int) string { return "task-" + strconv.Itoa(i+1) }
