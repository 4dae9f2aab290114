package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/alecthomas/kong"

	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/client/devid"
)

// Exit codes.
const (
	exitDone     = 0
	exitRefused  = 1
	exitUnusable = 2
)

// errRefused ends the command with exitRefused; the answer was printed.
var errRefused = errors.New("refused")

// terminal is what the commands write to, and their clock.
type terminal struct {
	out, err io.Writer
	now      func() time.Time
}

// global are the flags of every command.
type global struct {
	URL            string        `name:"url" env:"SIGNET_URL" placeholder:"https://HOST:PORT" help:"The appliance."`
	Root           string        `name:"root" env:"SIGNET_ROOT" placeholder:"FILE" help:"Root certificates of the trust domain, PEM. No others are trusted."`
	Cert           string        `name:"cert" env:"SIGNET_CERT" placeholder:"FILE" help:"The caller's certificate chain, PEM."`
	Key            string        `name:"key" env:"SIGNET_KEY" placeholder:"FILE" help:"Its private key, PEM, or tpm:handle=0x81… of a key in the TPM."`
	TPM            string        `name:"tpm" env:"SIGNET_TPM" default:"/dev/tpmrm0" placeholder:"PATH" help:"The TPM of keys that are named tpm:handle=0x81…."`
	JSON           bool          `name:"json" help:"Print the API's JSON instead of lines for people."`
	RequestTimeout time.Duration `name:"request-timeout" default:"30s" help:"The longest that one request may take."`
}

type commands struct {
	global `embed:""`

	Orchestrator orchestratorCommands `cmd:"" help:"Register and attest orchestrators."`
	Service      serviceCommands      `cmd:"" help:"Register services, which may ask for decisions."`
	Operator     operatorCommands     `cmd:"" help:"Register people."`
	Grant        grantCommands        `cmd:"" help:"Ask for a user's consent."`
	Task         taskCommands         `cmd:"" help:"Open, show and complete tasks."`

	Spawn       spawnCommand       `cmd:"" help:"Spawn an agent, as its orchestrator, and get its certificate."`
	Delegate    delegateCommand    `cmd:"" help:"Spawn a sub-agent, as its parent, and get its certificate."`
	Agent       agentCommands      `cmd:"" help:"Serve an agent's certificate (SPIFFE Workload API, Envoy's SDS), redeem its token, replace its key, or spawn many."`
	Chain       chainCommand       `cmd:"" help:"Show what an agent's identity stands on."`
	Verify      verifyCommand      `cmd:"" help:"Report each check of a certificate chain; decides and records nothing."`
	Decide      decideCommand      `cmd:"" help:"Ask for an access decision. Exit status 1 if denied."`
	Revoke      revokeCommand      `cmd:"" help:"Revoke something and all below it."`
	Revocations revocationsCommand `cmd:"" help:"List what is revoked."`

	Policy  policyCommands `cmd:"" help:"Upload, look at and approve policy bundles; explain answers, and show what a bundle would change."`
	Act     actCommands    `cmd:"" help:"Write acts that custodians agree to, and have them carried out."`
	Audit   auditCommands  `cmd:"" help:"Read the log."`
	Status  statusCommand  `cmd:"" help:"Tell whether the appliance is ready. Exit status 1 if not."`
	Version versionCommand `cmd:"" help:"Print the version."`
}

// run is main without the process around it.
func run(ctx context.Context, args []string, t terminal) int {
	var c commands
	s := &session{terminal: t, global: &c.global, ctx: ctx}
	defer s.release()
	helped := false // --help printed; kong would exit here
	parser, err := kong.New(&c,
		kong.Name("signet"),
		kong.Description("Client of a Signet appliance. Exit status: 0 done, 1 refused or denied, 2 wrong usage, unreadable or unreachable."),
		kong.Writers(t.out, t.err),
		kong.Exit(func(int) { helped = true }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(s),
	)
	if err != nil {
		return s.fail(err)
	}
	parsed, err := parser.Parse(args)
	if helped {
		return exitDone
	}
	if err != nil {
		return s.fail(err)
	}
	return s.fail(parsed.Run())
}

// session is one run of one command.
type session struct {
	terminal
	*global
	ctx  context.Context // of the command, for what its TPM does
	held *devid.Machine  // opened by the first that needs it
}

// connect makes a client, with the caller's certificate if there is one.
func (s *session) connect() (*client.Client, error) {
	cert, err := s.certificate()
	if err != nil {
		return nil, err
	}
	return s.connectAs(cert)
}

// connectIdentified makes a client for what needs to know the caller, whose certificate it gives too.
func (s *session) connectIdentified() (*client.Client, *tls.Certificate, error) {
	cert, err := s.certificate()
	if err != nil {
		return nil, nil, err
	}
	if cert == nil {
		return nil, nil, errors.New("--cert, --key: required for this")
	}
	c, err := s.connectAs(cert)
	return c, cert, err
}

func (s *session) connectAs(cert *tls.Certificate) (*client.Client, error) {
	if s.URL == "" {
		return nil, errors.New("--url: required")
	}
	if s.Root == "" {
		return nil, errors.New("--root: required")
	}
	pem, err := readFile(s.Root, maxFile)
	if err != nil {
		return nil, fmt.Errorf("--root: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--root: %s: no PEM certificate", s.Root)
	}
	return client.New(client.Config{URL: s.URL, Roots: roots, Certificate: cert, Timeout: s.RequestTimeout})
}

// certificate is the caller's own; nil without the flags.
func (s *session) certificate() (*tls.Certificate, error) {
	if s.Cert == "" && s.Key == "" {
		return nil, nil // some requests need no identity
	}
	if s.Cert == "" || s.Key == "" {
		return nil, errors.New("--cert, --key: one is useless without the other")
	}
	cert, err := s.loadPair()
	if err != nil {
		return nil, fmt.Errorf("--cert, --key: %w", err)
	}
	return &cert, nil
}
