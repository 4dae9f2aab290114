// Command signetd is the Signet appliance: its daemon, its ceremonies and its checks.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/signet-pki/signet/internal/appliance"
)

// version is stamped by the build.
var version = "devel"

// exitAgain asks whoever started the program to start it again: EX_TEMPFAIL of sysexits.h.
const exitAgain = 75

// exitApprovals means that custodians have yet to agree.
const exitApprovals = 3

// cli is the command line.
type cli struct {
	Init    initCommand    `cmd:"" help:"Hold the first ceremony: make the keys, the certificates and the log."`
	Serve   serveCommand   `cmd:"" help:"Serve."`
	Dev     devCommand     `cmd:"" help:"Run a development appliance with software devices."`
	Doctor  doctorCommand  `cmd:"" help:"Check configuration and devices; change nothing."`
	Fsck    fsckCommand    `cmd:"" help:"Recompute the audit log and compare. Changes nothing without --repair."`
	Backup  backupCommand  `cmd:"" help:"Write a backup that only several custodians together can open. The daemon may run."`
	Restore restoreCommand `cmd:"" help:"Propose and carry out the restore of a backup, into an empty directory and under a new origin."`
	Export  exportCommand  `cmd:"" help:"Write the evidence bundle of a log that a restore succeeded."`
	Pin     pinCommand     `cmd:"" help:"Seal PINs to the TPM, and approve what releases them."`
	Module  moduleCommand  `cmd:"" hidden:""`

	Version kong.VersionFlag `help:"Print the version and exit."`
}

func main() {
	var c cli
	k := kong.Parse(&c, kong.Name("signetd"), kong.Description("Signet: delegated identities for agents, with an audit that needs no trust."),
		kong.Vars{"version": version}, kong.UsageOnError())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	k.BindTo(ctx, (*context.Context)(nil))
	k.Bind(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	err := k.Run()
	stop()
	again := errors.Is(err, appliance.ErrReopen)
	if err == nil || errors.Is(err, context.Canceled) && !again {
		return
	}
	fmt.Fprintln(os.Stderr, "signetd:", err)
	if again {
		os.Exit(exitAgain)
	}
	if errors.Is(err, appliance.ErrApprovals) {
		os.Exit(exitApprovals)
	}
	os.Exit(1)
}
