package main

import (
	"context"
	"fmt"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
)

// retry is the flag of what can be tied to its first attempt.
type retry struct {
	IdempotencyKey string `name:"idempotency-key" placeholder:"TEXT" help:"Ties a retry to its first attempt, for 24 hours."`
}

func (r retry) options() []client.Option {
	if r.IdempotencyKey == "" {
		return nil
	}
	return []client.Option{client.Idempotent(r.IdempotencyKey)}
}

type orchestratorCommands struct {
	Register registerOrchestratorCommand `cmd:"" help:"Make an orchestrator known, as an operator, and get its join token."`
	Attest   attestCommand               `cmd:"" help:"Prove to be a registered orchestrator, and get its certificate."`
	Renew    renewOrchestratorCommand    `cmd:"" help:"Get a new certificate over the present one, which is --cert and --key."`
	TPM      tpmCommand                  `cmd:"" name:"tpm" help:"Show this machine's endorsement key, as --tpm-ek of a registration wants it."`
}

type registerOrchestratorCommand struct {
	retry    `embed:""`
	Name     string        `arg:"" help:"Its name."`
	Type     []string      `name:"type" sep:"none" placeholder:"TYPE" help:"A type of agent that it may spawn; repeatable. None by default."`
	MaxTTL   time.Duration `name:"max-ttl" help:"The longest life of its agents; the appliance's limit by default."`
	Confirm  bool          `name:"require-confirmation" help:"Refuse its spawns without its signed delegation."`
	Method   []string      `name:"method" sep:"none" placeholder:"METHOD" help:"A way in which it may attest: join_token, x509pop, oidc_jwt, tpm_devid; repeatable. By default join_token and what is described below."`
	PopRoots string        `name:"x509pop-roots" placeholder:"FILE" help:"x509pop: the CAs whose certificates attest it, PEM."`
	Issuer   string        `name:"oidc-issuer" placeholder:"NAME" help:"oidc_jwt: the configured issuer, such as a cluster, whose tokens attest it."`
	Subject  string        `name:"oidc-subject" placeholder:"SUB" help:"oidc_jwt: their subject, such as system:serviceaccount:NAMESPACE:NAME."`
	EK       []string      `name:"tpm-ek" sep:"none" placeholder:"HEX" help:"tpm_devid: a machine that it runs on, as 'signet orchestrator tpm' shows it there; repeatable."`
	Replace  bool          `help:"The name is registered: replace that, and get a new join token."`
	TokenOut string        `name:"token-out" placeholder:"FILE" help:"Write the join token there, for its owner alone, and do not print it."`
}

func (q registerOrchestratorCommand) Run(ctx context.Context, s *session) error {
	if err := absent("--token-out", q.TokenOut); err != nil {
		return err
	}
	ttl, err := wholeSeconds("--max-ttl", q.MaxTTL)
	if err != nil {
		return err
	}
	req := v1.OrchestratorRegistration{
		Name: q.Name, AgentTypes: q.Type, MaxTTL: ttl, RequireConfirmation: q.Confirm, Replace: q.Replace,
		Methods: q.Method, OIDCIssuer: q.Issuer, OIDCSubject: q.Subject, TPMEKs: q.EK,
	}
	if q.PopRoots != "" {
		roots, err := readFile(q.PopRoots, maxFile)
		if err != nil {
			return fmt.Errorf("--x509pop-roots: %w", err)
		}
		req.X509PopRoots = string(roots)
	}
	c, err := s.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	out, err := c.RegisterOrchestrator(ctx, req, q.options()...)
	if err != nil {
		return err
	}
	if q.TokenOut != "" && out.JoinToken != "" {
		if err := writeBytes(q.TokenOut, 0o600, []byte(out.JoinToken+"\n")); err != nil {
			return fmt.Errorf("--token-out: the join token is lost; register again: %w", err)
		}
		out.JoinToken = ""
	}
	return s.print(out, row{"orchestrator", out.SPIFFEID}, row{"join token", out.JoinToken},
		row{"expires", timeText(out.JoinTokenExpires)}, receiptRow(out.AuditReceipt))
}

type attestCommand struct {
	holder    `embed:""`
	Name      string `arg:"" help:"The orchestrator's name."`
	TokenFile string `name:"token-file" placeholder:"FILE" xor:"method" required:"" help:"The join token."`
	JWTFile   string `name:"jwt-file" placeholder:"FILE" xor:"method" required:"" help:"The platform's token, such as a projected service-account token."`
	Devid     bool   `name:"devid" xor:"method" required:"" help:"Prove it by the TPM of --tpm, which then holds the key."`
	X509Pop   bool   `name:"x509pop" xor:"method" required:"" help:"Prove it by --cert and --key, from a CA named at registration."`
}

func (q attestCommand) Run(ctx context.Context, s *session) error {
	if q.Devid {
		return q.attestByTPM(ctx, s)
	}
	req := v1.Attestation{Method: v1.MethodX509Pop}
	for _, file := range []struct{ flag, path, method string }{
		{"--token-file", q.TokenFile, v1.MethodJoinToken}, {"--jwt-file", q.JWTFile, v1.MethodOIDC},
	} {
		if file.path == "" {
			continue
		}
		token, err := readToken(file.path)
		if err != nil {
			return fmt.Errorf("%s: %w", file.flag, err)
		}
		req = v1.Attestation{Method: file.method, Token: token}
	}
	return q.obtain(s, func(c *client.Client, sub subject) (v1.Certificate, error) {
		req.CSR = sub.csr
		return c.Attest(ctx, q.Name, req)
	})
}

type renewOrchestratorCommand struct {
	holder `embed:""`
	Name   string `arg:"" help:"The orchestrator's name."`
}

func (q renewOrchestratorCommand) Run(ctx context.Context, s *session) error {
	return q.obtain(s, func(c *client.Client, sub subject) (v1.Certificate, error) {
		return c.RenewOrchestrator(ctx, q.Name, sub.csr)
	})
}

// obtain gets a certificate for a key, and writes both.
func (h holder) obtain(s *session, ask func(c *client.Client, sub subject) (v1.Certificate, error)) error {
	c, err := s.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	sub, err := h.prepare(s)
	if err != nil {
		return err
	}
	out, err := ask(c, sub)
	if err != nil {
		return s.discard(sub, err)
	}
	if err := h.keep(sub, out.CertificateChain); err != nil {
		return err
	}
	return s.print(out, row{"identity", out.SPIFFEID}, row{"not after", timeText(out.NotAfter)},
		row{"certificate", h.CertOut}, row{"key", sub.made}, receiptRow(out.AuditReceipt))
}

type serviceCommands struct {
	Register registerServiceCommand `cmd:"" help:"Make a service known, as an operator, and get its certificate."`
	Renew    renewServiceCommand    `cmd:"" help:"Get a new certificate over the present one, which is --cert and --key."`
}

type registerServiceCommand struct {
	holder  `embed:""`
	retry   `embed:""`
	Name    string `arg:"" help:"Its name."`
	Replace bool   `help:"The name is registered: replace that, and get a new certificate."`
}

func (q registerServiceCommand) Run(ctx context.Context, s *session) error {
	return q.obtain(s, func(c *client.Client, sub subject) (v1.Certificate, error) {
		return c.RegisterService(ctx, v1.ServiceRegistration{Name: q.Name, CSR: sub.csr, Replace: q.Replace}, q.options()...)
	})
}

type renewServiceCommand struct {
	holder `embed:""`
	Name   string `arg:"" help:"Its name."`
}

func (q renewServiceCommand) Run(ctx context.Context, s *session) error {
	return q.obtain(s, func(c *client.Client, sub subject) (v1.Certificate, error) {
		return c.RenewService(ctx, q.Name, sub.csr)
	})
}

type operatorCommands struct {
	Register registerOperatorCommand `cmd:"" help:"Make a person known, as an operator, and get the certificate."`
}

type registerOperatorCommand struct {
	holder  `embed:""`
	retry   `embed:""`
	Name    string `arg:"" help:"The person's name."`
	Role    string `name:"role" required:"" enum:"operator,security_officer,auditor,privacy_officer" help:"One of ${enum}."`
	Replace bool   `help:"The name is registered: replace that, and get a new certificate."`
}

func (q registerOperatorCommand) Run(ctx context.Context, s *session) error {
	return q.obtain(s, func(c *client.Client, sub subject) (v1.Certificate, error) {
		return c.RegisterOperator(ctx, v1.OperatorRegistration{Name: q.Name, Role: q.Role, CSR: sub.csr, Replace: q.Replace}, q.options()...)
	})
}
