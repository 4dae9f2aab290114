package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/signet-pki/signet/internal/appliance"
	"github.com/signet-pki/signet/internal/dev"
)

type backupCommand struct {
	configured
	Out string `help:"The new file." required:"" placeholder:"FILE"`
}

// Run writes a backup.
func (c backupCommand) Run(ctx context.Context, log *slog.Logger) error {
	cfg, err := dev.LoadConfig(c.Config)
	if err != nil {
		return err
	}
	return appliance.Backup(ctx, cfg, c.Out, os.Stdout, log)
}

// restoreCommand first proposes, and then does what custodians agreed to.
type restoreCommand struct {
	configured
	Backup   string   `help:"The backup." type:"existingfile" required:"" placeholder:"FILE"`
	Propose  string   `help:"Write the act that custodians sign, and the layers of the backup's key, into this new directory; restore nothing." xor:"act" required:"" placeholder:"DIR"`
	Act      string   `help:"The act that custodians signed." type:"existingfile" xor:"act" required:"" placeholder:"FILE"`
	Approval []string `help:"A custodian's signature over the act; repeat for each." type:"existingfile" placeholder:"FILE"`
	Identity string   `help:"The backup's key, as the last custodian of a group took it out of its layers." type:"existingfile" placeholder:"FILE"`
}

// Run proposes or restores.
func (c restoreCommand) Run(ctx context.Context, log *slog.Logger) error {
	cfg, err := dev.LoadConfig(c.Config)
	if err != nil {
		return err
	}
	if c.Propose != "" {
		return appliance.ProposeRestore(ctx, cfg, c.Backup, c.Propose, os.Stdout, log)
	}
	return appliance.Restore(ctx, cfg, appliance.RestoreOptions{Backup: c.Backup, Identity: c.Identity, Act: c.Act, Approvals: c.Approval}, os.Stdout, log)
}

type exportCommand struct {
	configured
	Log    int    `help:"N of a former log, DIR/log.N." required:"" placeholder:"N"`
	Origin string `help:"Its origin." required:"" placeholder:"NAME"`
	Out    string `help:"The new file." required:"" placeholder:"FILE"`
}

// Run exports a former log.
func (c exportCommand) Run(ctx context.Context, log *slog.Logger) error {
	cfg, err := dev.LoadConfig(c.Config)
	if err != nil {
		return err
	}
	return appliance.ExportFormer(ctx, cfg, c.Log, c.Origin, c.Out, log)
}
