package main

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"golang.org/x/term"

	"github.com/signet-pki/signet/internal/appliance"
	"github.com/signet-pki/signet/internal/dev"
)

// configured is what the commands on an appliance share.
type configured struct {
	Config string `help:"The configuration file." type:"existingfile" required:"" placeholder:"FILE"`
}

type initCommand struct {
	configured
	DryRun   bool     `help:"Check all that can be checked without making a key, and print what would be made." name:"dry-run"`
	Approval []string `help:"A file with a custodian's signature under DIR/ceremony/act.json; one for each who approves." type:"existingfile" placeholder:"FILE"`
}

// Run holds the ceremony.
func (c initCommand) Run(ctx context.Context, log *slog.Logger) error {
	cfg, err := dev.LoadConfig(c.Config)
	if err != nil {
		return err
	}
	return appliance.Ceremony(ctx, cfg, appliance.InitOptions{DryRun: c.DryRun, Approvals: c.Approval, Terminal: terminal(), Out: os.Stdout}, log)
}

// terminal is where somebody sits; nil where nobody does.
func terminal() *os.File {
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return nil
	}
	return os.Stdin
}

type serveCommand struct{ configured }

// Run serves until a signal.
func (c serveCommand) Run(ctx context.Context, log *slog.Logger) error {
	cfg, err := dev.LoadConfig(c.Config)
	if err != nil {
		return err
	}
	return appliance.Serve(ctx, cfg, log)
}

type doctorCommand struct {
	configured
	JSON bool `help:"Print one JSON document." name:"json"`
}

// Run prints what is good and what is not.
func (c doctorCommand) Run(ctx context.Context, log *slog.Logger) error {
	cfg, err := dev.LoadConfig(c.Config)
	if err != nil {
		return err
	}
	d := appliance.Doctor(ctx, cfg, log)
	write := d.Text
	if c.JSON {
		write = d.JSON
	}
	return errors.Join(write(os.Stdout), d.Err())
}

type fsckCommand struct {
	configured
	Repair bool `help:"Make the index and the tiles anew from the entries, if nothing else is wrong."`
}

// Run checks the log.
func (c fsckCommand) Run(ctx context.Context, log *slog.Logger) error {
	cfg, err := dev.LoadConfig(c.Config)
	if err != nil {
		return err
	}
	if c.Repair {
		return appliance.Repair(ctx, cfg, os.Stdout, log)
	}
	return appliance.Fsck(ctx, cfg, os.Stdout, log)
}

type moduleCommand struct{}

// Run is the process of an isolated PKCS#11 module, which the daemon starts.
func (moduleCommand) Run() error { return appliance.ServeModule() }

type devCommand struct {
	Dir         string `help:"The appliance's directory; made on the first run." default:"var/dev"`
	Listen      string `help:"The address of the HTTPS port; port 0 takes a free one." default:"127.0.0.1:8443"`
	Demo        bool   `help:"Run the demonstration."`
	Exit        bool   `help:"Stop after the demonstration; its failure is the exit code."`
	TPMKeys     bool   `help:"On the first run, make all keys in the software TPM and use no tokens." name:"tpm-keys" xor:"keys"`
	TPM2PKCS11  bool   `help:"On the first run, make the tokens with tpm2-pkcs11, over a software TPM of their own, instead of SoftHSM." name:"tpm2-pkcs11" xor:"keys"`
	Conformance string `help:"Serve AuthZEN's certification scenario on this loopback host:port, about made-up subjects." placeholder:"HOST:PORT"`
}

// Run runs the development appliance.
func (c devCommand) Run(ctx context.Context, log *slog.Logger) error {
	return dev.Run(ctx, dev.Options{
		Dir: c.Dir, Listen: c.Listen, Demo: c.Demo, Exit: c.Exit, TPMKeys: c.TPMKeys, TokensOverTPM: c.TPM2PKCS11,
		Conformance: c.Conformance, Out: os.Stdout, Log: log,
	})
}
