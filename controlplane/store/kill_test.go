package store_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vigil-ml/vigil/controlplane/store"
)

// childVariable names the file that a child process of the test writes to.
const childVariable = "VIGIL_STORE_TEST_CHILD"

func childPath() string { return os.Getenv(childVariable) }

// commitForever commits one number after the other, each as a cursor and as a
// run, and prints it once it is committed, until it is killed.
func commitForever(path string) {
	ctx := context.Background()
	s, err := store.Open(ctx, store.Config{Path: path}, store.Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		return
	}
	for {
		var n uint64
		err := s.Update(ctx, func(tx *store.Tx) error {
			last, err := tx.Cursor("kill")
			if err != nil {
				return err
			}
			n = last + 1
			if err := tx.PutRun(numbered(n), n); err != nil {
				return err
			}
			return tx.SetCursor("kill", n)
		})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(n)
	}
}

// TestKill kills a process that commits, several times, and looks for every
// commit that it had told of.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vigil.db")
	for round := range 4 {
		told := killAfter(t, path, 5+10*round)
		s := open(t, path, nil)
		err := s.View(t.Context(), func(tx *store.Tx) error {
			last, err := tx.Cursor("kill")
			if err != nil {
				return err
			}
			if last < told {
				t.Errorf("round %d: %d was told of and the last one there is %d", round, told, last)
			}
			runs, err := tx.Runs(0)
			if uint64(len(runs)) != last {
				t.Errorf("round %d: %d runs for cursor %d: half a transaction", round, len(runs), last)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// killAfter lets a child tell of so many commits, kills it, and gives the last
// one that it told of.
func killAfter(t *testing.T, path string, lines int) (told uint64) {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), childVariable+"="+path)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	scanner := bufio.NewScanner(out)
	for seen := 0; scanner.Scan(); seen++ {
		n, err := strconv.ParseUint(strings.TrimSpace(scanner.Text()), 10, 64)
		if err != nil {
			t.Fatalf("child: %s", scanner.Text())
		}
		told = n
		if seen == lines {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := child.Wait(); err == nil {
		t.Fatal("the child ended by itself")
	}
	return told
}
