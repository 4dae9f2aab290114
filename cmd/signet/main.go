// Command signet is the client of a Signet appliance, for operators, orchestrators, agents and services. It speaks the API
// over mutual TLS, makes the keys of the identities that it asks for, and signs delegations; it holds no state of its own.
//
// Keys and tokens are file paths, never arguments. Nothing that exists is overwritten. It exits with 0 if what was asked
// was done, 1 if it was refused or denied, and 2 if the arguments are wrong or something could not be read or reached.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// version is stamped by the build.
var version = "devel"

func main() {
	os.Exit(interruptible())
}

func interruptible() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return run(ctx, os.Args[1:], terminal{out: os.Stdout, err: os.Stderr, now: time.Now})
}
