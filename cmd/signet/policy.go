package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
)

// maxBundle bounds a policy bundle, in bytes, as the appliance does.
const maxBundle = 16 << 20

type policyCommands struct {
	Push    pushCommand        `cmd:"" help:"Upload a signed bundle (opa build, opa sign) as a candidate."`
	List    listBundlesCommand `cmd:"" help:"List the active bundle and the candidates."`
	Show    showBundleCommand  `cmd:"" help:"Show a candidate, or the active bundle by its name."`
	Approve approveCommand     `cmd:"" help:"Approve exactly this digest. The second person's approval makes the bundle active."`
	Test    testBundleCommand  `cmd:"" help:"Compile a candidate again and run its own tests, on the appliance. Exit status 1 if one fails."`
	Explain explainCommand     `cmd:"" help:"Tell how policy comes to an answer about a recorded decision or an input. Exit status 1 if it denies."`
	Replay  replayCommand      `cmd:"" help:"Tell which recorded answers a bundle would give otherwise. Exit status 1 if there are any."`
}

type pushCommand struct {
	Name string `arg:"" help:"The candidate's name."`
	File string `arg:"" help:"The bundle, .tar.gz."`
}

func (q pushCommand) Run(ctx context.Context, s *session) error {
	archive, err := readFile(q.File, maxBundle)
	if err != nil {
		return err
	}
	return s.bundle(func(c *client.Client) (v1.PolicyBundle, error) { return c.PushPolicyBundle(ctx, q.Name, archive) })
}

type listBundlesCommand struct{}

func (listBundlesCommand) Run(ctx context.Context, s *session) error {
	c, _, err := s.connectIdentified()
	if err != nil {
		return err
	}
	defer c.Close()
	all, err := c.PolicyBundles(ctx)
	if err != nil {
		return err
	}
	rows := make([]row, len(all.Bundles))
	for i, b := range all.Bundles {
		rows[i] = row{b.Name, fmt.Sprintf("%s  revision %d  %s  %d approvals", b.Status, b.Revision, b.Digest, len(b.Approvals))}
	}
	return s.print(all, rows...)
}

type showBundleCommand struct {
	Name string `arg:"" help:"Its name."`
}

func (q showBundleCommand) Run(ctx context.Context, s *session) error {
	return s.bundle(func(c *client.Client) (v1.PolicyBundle, error) { return c.PolicyBundle(ctx, q.Name) })
}

type testBundleCommand struct {
	Name string `arg:"" help:"The candidate's name."`
}

// Help shows an example.
func (testBundleCommand) Help() string {
	return `The appliance does it, with the functions, bounds and time that decisions have.

Example:
  signet policy test hospital`
}

func (q testBundleCommand) Run(ctx context.Context, s *session) error {
	c, _, err := s.connectIdentified()
	if err != nil {
		return err
	}
	defer c.Close()
	out, err := c.TestPolicyBundle(ctx, q.Name)
	if err != nil {
		return err
	}
	rows := []row{{"digest", out.Digest}}
	for _, t := range out.Tests {
		outcome := "passed"
		if !t.Passed {
			outcome = strings.TrimSpace("FAILED " + t.Detail)
		}
		rows = append(rows, row{t.Name, outcome})
	}
	if err := s.print(out, rows...); err != nil {
		return err
	}
	if !out.Passed {
		return errRefused
	}
	return nil
}

type approveCommand struct {
	Name   string `arg:"" help:"The candidate's name."`
	Digest string `arg:"" help:"What is approved, as 'show' and 'push' print it."`
}

func (q approveCommand) Run(ctx context.Context, s *session) error {
	return s.bundle(func(c *client.Client) (v1.PolicyBundle, error) { return c.ApprovePolicyBundle(ctx, q.Name, q.Digest) })
}

// bundle asks something about one bundle, and prints the answer.
func (s *session) bundle(ask func(*client.Client) (v1.PolicyBundle, error)) error {
	c, _, err := s.connectIdentified()
	if err != nil {
		return err
	}
	defer c.Close()
	b, err := ask(c)
	if err != nil {
		return err
	}
	rows := []row{
		{"bundle", b.Name},
		{"status", b.Status},
		{"revision", strconv.FormatUint(b.Revision, 10)},
		{"digest", b.Digest},
		{"key", b.KeyID},
		{"by", b.By},
		{"since", timeText(b.Since)},
	}
	for _, a := range b.Approvals {
		rows = append(rows, row{"approved by", strings.TrimSuffix(a.Operator+" until "+timeText(a.Expires), " until ")})
	}
	if len(b.Tests) > 0 { // a bundle one of whose tests fails is refused
		rows = append(rows, row{"tests", strconv.Itoa(len(b.Tests)) + " passed"})
	}
	return s.print(b, append(rows, receiptRow(b.AuditReceipt))...)
}
