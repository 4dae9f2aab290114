// Command signet-verify checks, offline and without trusting the appliance, what Signet issues and records: agents' certificates,
// receipts and evidence bundles. It asks nobody: everything it needs is in the files that it is given.
//
// It exits with 0 if what it was shown is valid, 1 if it is not, and 2 if it could not be read or the arguments are wrong.
package main

import (
	"context"
	"os"
	"os/signal"
	"time"
)

func main() {
	os.Exit(interruptible())
}

func interruptible() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	return run(ctx, os.Args[1:], terminal{out: os.Stdout, err: os.Stderr, now: time.Now})
}
