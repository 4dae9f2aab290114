package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation/chain"
)

type verifyCommand struct {
	Chain string    `arg:"" help:"File with the certificate chain, PEM, leaf first."`
	Scope []string  `name:"scope" sep:"none" placeholder:"TOKEN" help:"A scope that the leaf must cover; repeatable."`
	At    time.Time `name:"at" placeholder:"TIME" help:"As of then, RFC 3339; now by default."`
}

func (q verifyCommand) Run(ctx context.Context, s *session) error {
	_, presented, err := readChain(q.Chain)
	if err != nil {
		return err
	}
	c, _, err := s.connectIdentified()
	if err != nil {
		return err
	}
	defer c.Close()
	out, err := c.Verify(ctx, v1.VerifyRequest{CertificateChain: presented, RequiredScope: q.Scope, At: q.At.UTC()})
	if err != nil {
		return err
	}
	rows := []row{{"verdict", "INVALID"}, {"agent", out.Agent}}
	if out.Valid {
		rows[0].value = "valid"
	}
	for _, name := range slices.Sorted(maps.Keys(out.Checks)) {
		rows = append(rows, row{name, checkText(out.Checks[name])})
	}
	if err := s.print(out, rows...); err != nil {
		return err
	}
	if !out.Valid {
		return errRefused
	}
	return nil
}

type decideCommand struct {
	Chain        string `name:"chain" placeholder:"FILE" help:"The agent's certificate chain, PEM, leaf first; an agent asks about itself by default."`
	Action       string `name:"action" required:"" help:"What the agent wants to do."`
	ResourceType string `name:"resource-type" required:"" help:"The type of what it wants to do it to."`
	ResourceID   string `name:"resource-id" required:"" help:"And which one."`
	Issuer       string `name:"user-issuer" placeholder:"URL" and:"user" help:"Refuse agents of other users: the identity provider."`
	Subject      string `name:"user-subject" placeholder:"SUB" and:"user" help:"And the user's subject there."`
	Orchestrator string `name:"orchestrator" placeholder:"SPIFFE-ID" help:"Refuse agents of other orchestrators."`
	Sealed       bool   `name:"sealed" help:"Wait until the TPM has sealed the entry; the answer says whether it has."`
}

func (q decideCommand) Run(ctx context.Context, s *session) error {
	c, cert, err := s.connectIdentified()
	if err != nil {
		return err
	}
	defer c.Close()
	req := v1.EvaluationRequest{
		Subject: v1.Subject{Type: "agent"}, Action: v1.Action{Name: q.Action},
		Resource: v1.Resource{Type: q.ResourceType, ID: q.ResourceID},
		Context:  v1.EvaluationContext{ExpectedOrchestrator: q.Orchestrator},
	}
	if q.Subject != "" {
		req.Context.ExpectedUser = &v1.User{Issuer: q.Issuer, Subject: q.Subject}
	}
	leaf := cert.Leaf
	if q.Chain != "" {
		if leaf, req.Context.CertificateChain, err = readChain(q.Chain); err != nil {
			return fmt.Errorf("--chain: %w", err)
		}
	}
	id, err := spiffeID(leaf)
	if err != nil {
		return err
	}
	req.Subject.ID = id.String()
	ask := c.Evaluate
	if q.Sealed {
		ask = c.EvaluateSealed
	}
	out, err := ask(ctx, req)
	if err != nil {
		return err
	}
	return s.printDecision(out)
}

func (s *session) printDecision(out v1.EvaluationResponse) error {
	rows := []row{
		{"decision", "denied"},
		{"reasons", strings.Join(out.Context.Reasons, " ")},
		{"obligations", objectsText(out.Context.Obligations)},
		{"id", out.Context.DecisionID},
	}
	if out.Decision {
		rows[0].value = "allowed"
	}
	if out.Context.AuditID != nil {
		rows = append(rows, entryRow(*out.Context.AuditID, out.Context.AuditSealed))
	}
	if err := s.print(out, append(rows, checkRows(out.Context.Checks)...)...); err != nil {
		return err
	}
	if !out.Decision {
		return errRefused
	}
	return nil
}

type revokeCommand struct {
	retry   `embed:""`
	Kind    string `arg:"" enum:"certificate,agent,subtree,task,grant,user,orchestrator" help:"One of ${enum}."`
	ID      string `arg:"" optional:"" help:"Serial in hex, id or orchestrator's name; a user has --issuer and --subject."`
	Issuer  string `name:"issuer" placeholder:"URL" and:"user" help:"The user's identity provider."`
	Subject string `name:"subject" placeholder:"SUB" and:"user" help:"The user's subject there."`
	Reason  string `name:"reason" help:"For the record."`
}

func (q revokeCommand) Run(ctx context.Context, s *session) error {
	req := v1.RevocationRequest{Kind: q.Kind, ID: q.ID, Reason: q.Reason}
	switch user := q.Kind == "user"; {
	case user && (q.ID != "" || q.Subject == ""):
		return errors.New("revoke user: named by --issuer and --subject")
	case !user && (q.ID == "" || q.Subject != ""):
		return fmt.Errorf("revoke %s: named by its id", q.Kind)
	case user:
		req.User = &v1.User{Issuer: q.Issuer, Subject: q.Subject}
	}
	c, _, err := s.connectIdentified()
	if err != nil {
		return err
	}
	defer c.Close()
	out, err := c.Revoke(ctx, req, q.options()...)
	if err != nil {
		return err
	}
	return s.print(out, row{"revoked", revoked(out)}, row{"number", strconv.FormatUint(out.Seq, 10)}, row{"at", timeText(out.Time)},
		row{"reason", out.Reason}, receiptRow(out.AuditReceipt))
}

func revoked(r v1.Revocation) string {
	if r.User != nil {
		return r.Kind + " " + r.User.Subject + " of " + r.User.Issuer
	}
	return r.Kind + " " + r.ID
}

type revocationsCommand struct {
	Cursor string `name:"cursor" help:"Only what came after that page."`
}

func (q revocationsCommand) Run(ctx context.Context, s *session) error {
	c, _, err := s.connectIdentified()
	if err != nil {
		return err
	}
	defer c.Close()
	page, err := c.Revocations(ctx, q.Cursor)
	if err != nil {
		return err
	}
	rows := make([]row, 0, len(page.Revocations)+1)
	for _, r := range page.Revocations {
		rows = append(rows, row{strconv.FormatUint(r.Seq, 10), strings.TrimSpace(timeText(r.Time) + "  " + revoked(r) + "  " + r.Reason)})
	}
	return s.print(page, append(rows, row{"next cursor", page.NextCursor})...)
}

// readChain reads the certificates of a file: the leaf, and all of them as a PEM string each.
func readChain(path string) (*x509.Certificate, []string, error) {
	data, err := readFile(path, maxFile)
	if err != nil {
		return nil, nil, err
	}
	certs, err := chain.ParsePEM(data, chain.MaxChain)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	texts := make([]string, len(certs))
	for i, c := range certs {
		texts[i] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return certs[0], texts, nil
}
