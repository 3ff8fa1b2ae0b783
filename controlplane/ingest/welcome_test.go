package ingest

import (
	"fmt"
	"testing"
)

func TestWelcomeComesBeforeAnyCommand(t *testing.T) {
	p := start(t, t.TempDir())
	p.fleet.eager = true
	for i := range 50 {
		a, _ := p.connect(fmt.Sprint("n", i)) // wants Welcome first
		if a.hear().GetCommand() == nil {
			t.Fatal("no command came behind it")
		}
		a.hangUp()
	}
}
