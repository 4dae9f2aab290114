package demo

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/chain"
)

// access is what the delegation is for.
func (s *story) access(ctx context.Context) error {
	s.step("Agent and sub-agent read patient records over mutual TLS; the service asks the appliance each time.")
	own := s.ownPatients()
	for _, a := range []*actor{s.agent, s.subAgent} {
		if err := s.read(ctx, a, own); err != nil {
			return fmt.Errorf("%s: %w", a.issued.SPIFFEID, err)
		}
	}
	s.checked("both are allowed: right chain, right user, right scope, and the physician is an analyst (policy)")
	return nil
}

// ownPatients is the path of records that belong to the physician who consented.
func (s *story) ownPatients() string {
	return "/patients?" + url.Values{"physician": {s.user().Subject}, "issuer": {s.user().Issuer}}.Encode()
}

// user is who the agent acts for, as its certificate says.
func (s *story) user() v1.User {
	d, err := chain.Extract(s.agent.cert.Leaf)
	if err != nil {
		return v1.User{}
	}
	return v1.User{Issuer: d.Grant.Issuer, Subject: d.Grant.Subject}
}

// refusals are the ways in which a delegation fails, each for its own reason alone.
func (s *story) refusals(ctx context.Context) error {
	s.step("The sub-agent reaches for trial data, which its parent may read and it may not.")
	if err := s.denied(ctx, s.subAgent, "/trials", "scope_not_covered"); err != nil {
		return err
	}
	s.step("The agent reaches for the records of another physician's patients.")
	other := "/patients?" + url.Values{"physician": {"another"}, "issuer": {s.user().Issuer}}.Encode()
	if err := s.denied(ctx, s.agent, other, "principal_mismatch"); err != nil {
		return err
	}
	s.step("An agent with two seconds to live comes too late.")
	hash, err := client.ParentHash(s.orchestratorCert.Leaf, s.grant.GrantHash)
	if err != nil {
		return err
	}
	late, err := s.spawnWith(ctx, s.request("research", 2, 0, patients), hash)
	if err != nil {
		return err
	}
	timer := time.NewTimer(time.Until(late.issued.NotAfter) + 50*time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.denied(ctx, late, "/patients", "deadline_passed")
}

// denied checks that the one reason of a refusal is the one expected, in the answer and in the log.
func (s *story) denied(ctx context.Context, a *actor, path, code string) error {
	var r *refused
	if err := s.read(ctx, a, path); !errors.As(err, &r) {
		return fmt.Errorf("want the refusal %s, got: %w", code, orNone(err))
	}
	if !slices.Equal(r.Reasons, []string{code}) {
		return fmt.Errorf("want the one reason %s, got %v", code, r.Reasons)
	}
	if r.AuditID == nil {
		return errors.New("the denial has no entry")
	}
	return s.recorded(ctx, *r.AuditID, code)
}

// revoke ends the task and with it everything below.
func (s *story) revoke(ctx context.Context) error {
	s.step("The operator revokes the task; agent and sub-agent lose everything at once, though their certificates live on.")
	if _, err := s.operator.Revoke(ctx, v1.RevocationRequest{Kind: "task", ID: s.task.TaskID, Reason: "end of the demonstration"}); err != nil {
		return err
	}
	for _, a := range []*actor{s.agent, s.subAgent} {
		if err := s.denied(ctx, a, s.ownPatients(), "task_revoked"); err != nil {
			return err
		}
	}
	hash, err := client.ParentHash(s.orchestratorCert.Leaf, s.grant.GrantHash)
	if err != nil {
		return err
	}
	_, err = s.spawnWith(ctx, s.request("research", 60, 0, patients), hash)
	return s.refusal(ctx, err, "task_revoked")
}

// audit verifies the record, trusting nothing but keys that were written down before.
func (s *story) audit(ctx context.Context) error {
	s.step("The receipt of the agent's identity: entry, proof, checkpoint signed in the HSM, seal quoted by the TPM.")
	if s.agent.issued.AuditReceipt == nil {
		return errors.New("the spawn named no entry")
	}
	raw, err := s.auditor.Receipt(ctx, s.agent.issued.AuditReceipt.Index, true)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.dir, "agent.receipt"), raw, 0o600); err != nil {
		return err
	}
	receipt, err := bundle.ParseReceipt(raw)
	if err != nil {
		return err
	}
	if report := bundle.VerifyReceipt(receipt, nil); !report.Valid {
		return fmt.Errorf("the receipt does not verify: %+v", report.Failed())
	}
	s.checked("it verifies offline (signet-verify receipt %s)", filepath.Join(s.dir, "agent.receipt"))
	return s.export(ctx)
}

func (s *story) export(ctx context.Context) error {
	s.step("The auditor exports the evidence and verifies it offline.")
	// The last revocation must be under a seal, or the bundle would end before it.
	head, err := s.operator.Revocations(ctx, "")
	if err != nil {
		return err
	}
	for _, r := range head.Revocations {
		if r.ID == s.task.TaskID && r.AuditReceipt != nil {
			if _, err := s.auditor.Receipt(ctx, r.AuditReceipt.Index, true); err != nil {
				return err
			}
		}
	}
	tarPath := filepath.Join(s.dir, "bundle.tar")
	f, err := os.Create(tarPath)
	if err != nil {
		return err
	}
	err = errors.Join(s.auditor.Export(ctx, f), f.Close())
	if err != nil {
		return err
	}
	dir := filepath.Join(s.dir, "bundle")
	if err := unpack(tarPath, dir); err != nil {
		return err
	}
	return s.verify(ctx, dir)
}

func (s *story) verify(ctx context.Context, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	report, err := bundle.Verify(ctx, root.FS(), bundle.Options{})
	if err != nil {
		return err
	}
	if !report.Valid {
		return fmt.Errorf("the bundle does not verify: %+v", report.Failed())
	}
	manifest, err := root.ReadFile("MANIFEST.sha256")
	if err != nil {
		return err
	}
	s.checked("%d entries under %d seals: integrity %s, completeness %s", report.Entries, report.Seals, report.Integrity, report.Completeness)
	s.checked("anyone can repeat that: bin/signet-verify bundle %s, or with stock tools %s", dir, filepath.Join(dir, "README.verify"))
	s.checked("SHA-256 of the manifest: %x", sha256.Sum256(manifest))
	return nil
}
