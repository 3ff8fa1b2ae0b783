// Vigil-trainer runs training: "run" supervises any training command, and
// "train" is the reference trainer, a small multi-task model on handwritten
// digits.
package main

import (
	"context"
	"os"
)

func main() {
	os.Exit(execute(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
