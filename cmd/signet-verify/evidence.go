package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/record"
)

const (
	maxTrust   = 64 << 10
	maxReceipt = 1 << 20
)

type receiptCommand struct {
	Trust string `help:"Trust file with the auditor's anchors; without it the receipt's own are taken." type:"path" placeholder:"FILE"`
	JSON  bool   `help:"Print the report as JSON."`
	Path  string `arg:"" help:"The receipt." type:"path"`
}

// Run verifies a receipt.
func (c *receiptCommand) Run(t terminal) error {
	trust, err := readTrust(c.Trust)
	if err != nil {
		return err
	}
	receipt, err := readReceipt(c.Path)
	if err != nil {
		return err
	}
	return t.report(bundle.VerifyReceipt(receipt, trust), c.JSON)
}

func readReceipt(path string) (bundle.Receipt, error) {
	data, err := readFile(path, maxReceipt)
	if err != nil {
		return bundle.Receipt{}, err
	}
	return bundle.ParseReceipt(data)
}

type transcriptCommand struct {
	Trust string `help:"Trust file with the auditor's anchors; without it the transcript's own are taken." type:"path" placeholder:"FILE"`
	JSON  bool   `help:"Print the report as JSON."`
	Path  string `arg:"" help:"The transcript." type:"path"`
}

// Run verifies a transcript.
func (c *transcriptCommand) Run(t terminal) error {
	trust, err := readTrust(c.Trust)
	if err != nil {
		return err
	}
	data, err := readFile(c.Path, bundle.MaxTranscript)
	if err != nil {
		return err
	}
	report, err := bundle.VerifyTranscript(data, trust)
	if err != nil {
		return err
	}
	return t.report(report, c.JSON)
}

type bundleCommand struct {
	Trust           string `help:"Trust file with the auditor's anchors; without it the bundle's own are taken." type:"path" placeholder:"FILE"`
	Range           string `help:"Entries that must be there, first and one past the last, when the bundle is a part of the log. Default: all." placeholder:"FROM:TO"`
	Task            string `help:"That the bundle is of this task was asked for." xor:"of" placeholder:"UUID"`
	Agent           string `help:"Of this agent, and those below it." xor:"of" placeholder:"UUID"`
	User            string `help:"Of this user, as entries name them." xor:"of" placeholder:"PSEUDONYM"`
	Issuer          string `help:"Of the user whom the consents in it name: their identity provider." and:"person" placeholder:"URL"`
	Subject         string `help:"And their subject there." and:"person" xor:"of" placeholder:"SUB"`
	RequireComplete bool   `help:"Findings about completeness make the bundle invalid too."`
	Progress        bool   `help:"Say on standard error how far it is, at each hundredth."`
	JSON            bool   `help:"Print the report as JSON."`
	Path            string `arg:"" help:"The bundle: a directory or a tar archive." type:"path"`
	Successor       string `arg:"" optional:"" help:"The bundle of the log that succeeds it after a restore: both are verified, and that they tell one story." type:"path"`
}

// Run verifies a bundle.
func (c *bundleCommand) Run(ctx context.Context, t terminal) error {
	trust, err := readTrust(c.Trust)
	if err != nil {
		return err
	}
	options := bundle.Options{Trust: trust}
	if err := c.asked(&options); err != nil {
		return err
	}
	if c.Range != "" {
		if options.Range, err = parseRange(c.Range); err != nil {
			return err
		}
	}
	if c.Progress {
		options.Progress = t.progress()
	}
	files, done, err := openBundle(c.Path)
	if err != nil {
		return err
	}
	defer done() //nolint:errcheck // read only: nothing is lost
	if c.Successor != "" {
		return c.succession(ctx, t, files, options)
	}
	report, err := bundle.Verify(ctx, files, options)
	if err != nil {
		return err
	}
	if c.RequireComplete && report.Completeness != "complete" {
		report.Valid = false
	}
	return t.report(report, c.JSON)
}

// succession verifies two bundles.
func (c *bundleCommand) succession(ctx context.Context, t terminal, former fs.FS, o bundle.Options) error {
	if c.Range != "" || o.Selection != nil || o.User != nil {
		return errors.New("two bundles are verified whole: without --range, --task, --agent, --user and --subject")
	}
	files, done, err := openBundle(c.Successor)
	if err != nil {
		return err
	}
	defer done() //nolint:errcheck // read only: nothing is lost
	s, err := bundle.VerifySuccession(ctx, former, files, o)
	if err != nil {
		return err
	}
	if c.RequireComplete && (s.Former.Completeness != "complete" || s.Successor.Completeness != "complete") {
		s.Valid = false
	}
	return t.succession(s, c.JSON)
}

// progress tells each hundredth once.
func (t terminal) progress() func(done, total uint64) {
	told := uint64(0)
	return func(done, total uint64) {
		if part := 100 * done / total; part > told {
			told = part
			_, _ = fmt.Fprintf(t.err, "%d %%: %d of %d entries\n", part, done, total) // the report matters, not this
		}
	}
}

// asked says which part of the log the auditor asked for, by whom it is about.
func (c *bundleCommand) asked(o *bundle.Options) error {
	for _, of := range []bundle.Selection{{By: bundle.ByTask, ID: c.Task}, {By: bundle.ByAgent, ID: c.Agent}, {By: bundle.ByUser, ID: c.User}} {
		if of.ID == "" {
			continue
		}
		if err := of.Check(); err != nil {
			return fmt.Errorf("--%s: %w", of.By, err)
		}
		o.Selection = &of
	}
	if c.Subject != "" {
		o.User = &record.UserPayload{Issuer: c.Issuer, Subject: c.Subject}
	}
	return nil
}

func parseRange(text string) (*bundle.Range, error) {
	first, last, found := strings.Cut(text, ":")
	from, err1 := strconv.ParseUint(first, 10, 63)
	to, err2 := strconv.ParseUint(last, 10, 63)
	if err := errors.Join(err1, err2); !found || err != nil || from >= to {
		return nil, fmt.Errorf("--range: %q is not FROM:TO", text)
	}
	return &bundle.Range{From: from, To: to}, nil
}

// openBundle opens a directory, without following links out of it, or a tar archive.
func openBundle(path string) (files fs.FS, done func() error, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, err
	}
	if info.IsDir() {
		root, err := os.OpenRoot(path)
		if err != nil {
			return nil, nil, err
		}
		return root.FS(), root.Close, nil
	}
	archive, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	if files, err = bundle.OpenTar(archive, info.Size()); err != nil {
		return nil, nil, errors.Join(err, archive.Close())
	}
	return files, archive.Close, nil
}

func readTrust(path string) (*bundle.Trust, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // no trust file is a valid choice, which the report names
	}
	data, err := readFile(path, maxTrust)
	if err != nil {
		return nil, err
	}
	return bundle.ParseTrust(data)
}
