package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/signet-pki/signet/internal/appliance"
	"github.com/signet-pki/signet/internal/dev"
)

// pinCommand is about PINs that are sealed to the TPM.
type pinCommand struct {
	Seal    pinSealCommand    `cmd:"" help:"Seal a token's PIN, read from standard input, to the TPM. Nothing releases it before an approval."`
	PCRs    pinPCRsCommand    `cmd:"" name:"pcrs" help:"Print the values of the PCRs in tpm.pcrs, to be approved."`
	Approve pinApproveCommand `cmd:"" help:"Sign that a sealed PIN may be released under PCR values. Needs no TPM: the key belongs elsewhere."`
	Accept  pinAcceptCommand  `cmd:"" help:"Put an approval into the file of its sealed PIN."`
}

type pinSealCommand struct {
	configured
	Token    string `help:"Whose PIN: root, issuing or audit." enum:"root,issuing,audit" required:""`
	Approver string `help:"The public key of whoever will approve PCR values (PEM, P-256)." type:"existingfile" required:"" placeholder:"FILE"`
	Out      string `help:"The new file, for pin_file: sealed:FILE." required:"" placeholder:"FILE"`
}

// Run seals.
func (c pinSealCommand) Run(ctx context.Context, log *slog.Logger) error {
	cfg, err := dev.LoadConfig(c.Config)
	if err != nil {
		return err
	}
	pin, err := appliance.ReadPIN(os.Stdin, os.Stderr)
	if err != nil {
		return err
	}
	defer clear(pin)
	return appliance.SealPIN(ctx, cfg, c.Token, c.Approver, c.Out, pin, log)
}

type pinPCRsCommand struct{ configured }

// Run prints values.
func (c pinPCRsCommand) Run(ctx context.Context, log *slog.Logger) error {
	cfg, err := dev.LoadConfig(c.Config)
	if err != nil {
		return err
	}
	return appliance.PrintPCRs(ctx, cfg, os.Stdout, log)
}

type pinApproveCommand struct {
	Sealed string `help:"The file of the sealed PIN." type:"existingfile" required:"" placeholder:"FILE"`
	Values string `help:"The PCR values, as pin pcrs prints them." type:"existingfile" required:"" placeholder:"FILE"`
	Key    string `help:"The approver's private key (PEM, PKCS #8), readable by nobody else." type:"existingfile" required:"" placeholder:"FILE"`
	Out    string `help:"The new file with the approval." required:"" placeholder:"FILE"`
}

// Run approves.
func (c pinApproveCommand) Run() error {
	return appliance.ApprovePIN(c.Sealed, c.Values, c.Key, c.Out)
}

type pinAcceptCommand struct {
	Sealed   string `help:"The file of the sealed PIN." type:"existingfile" required:"" placeholder:"FILE"`
	Approval string `help:"The file with the approval." type:"existingfile" required:"" placeholder:"FILE"`
}

// Run accepts.
func (c pinAcceptCommand) Run() error {
	return appliance.AcceptPIN(c.Sealed, c.Approval, os.Stdout)
}
