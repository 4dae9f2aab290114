package appliance

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/record"
)

// attachments finds what stands beside the log: certificates in the domain's state, the rest in payloads.
type attachments struct {
	log    *audit.Log
	domain interface {
		Certificate(tbs [32]byte) (der []byte, ok bool, err error)
		PolicyArchive(digest string) ([]byte, error)
	}
}

var _ bundle.Attachments = attachments{}

// issuance reads an issue entry; ok is false for every other type.
func (a attachments) issuance(ctx context.Context, index uint64) (record.Stored, record.IssueBody, bool, error) {
	e, err := a.log.Read(ctx, index)
	if err != nil {
		return e, record.IssueBody{}, false, err
	}
	env, err := record.Check(e.Envelope)
	if err != nil || env.Type != record.TypeIssue {
		return e, record.IssueBody{}, false, err
	}
	body, err := record.DecodeBody[record.IssueBody](env)
	return e, body, err == nil, err
}

// Certificate gives what was issued under an entry.
func (a attachments) Certificate(ctx context.Context, entry uint64) ([]byte, error) {
	_, body, ok, err := a.issuance(ctx, entry)
	if err != nil || !ok {
		return nil, err
	}
	var tbs [32]byte
	if n, err := hex.Decode(tbs[:], []byte(body.TBSHash)); err != nil || n != len(tbs) {
		return nil, fmt.Errorf("entry %d: tbs_hash is no SHA-256", entry)
	}
	der, ok, err := a.domain.Certificate(tbs)
	if err != nil || !ok {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// Delegation gives the JWSs that were logged with an entry.
func (a attachments) Delegation(ctx context.Context, entry uint64) (jws, link string, err error) {
	e, _, ok, err := a.issuance(ctx, entry)
	if err != nil || !ok || e.Payload == nil {
		return "", "", err
	}
	var p record.IssuePayload
	if err := json.Unmarshal(e.Payload, &p); err != nil {
		return "", "", fmt.Errorf("entry %d: payload: %w", entry, err)
	}
	return p.JWS, p.Link, nil
}

// Evidence gives the file of a grant's consent.
func (a attachments) Evidence(ctx context.Context, grantID string) ([]byte, error) {
	indexes, err := a.log.Lookup(ctx, record.Term{Kind: "grant", ID: grantID}, 0, 16)
	if err != nil {
		return nil, err
	}
	for _, i := range indexes {
		e, err := a.log.Read(ctx, i)
		if err != nil {
			return nil, err
		}
		env, err := record.Check(e.Envelope)
		if err != nil || env.Type != record.TypeGrant || e.Payload == nil {
			continue
		}
		var p record.GrantPayload
		if err := json.Unmarshal(e.Payload, &p); err != nil {
			return nil, fmt.Errorf("entry %d: payload: %w", i, err)
		}
		return p.Evidence, nil
	}
	return nil, nil
}

// Policy gives the archive of a bundle that is or was active, its signature inside.
func (a attachments) Policy(_ context.Context, digest string) ([]byte, error) {
	return a.domain.PolicyArchive(digest)
}

// certificates reads the files of the ceremony that every bundle carries.
func (c *Config) certificates(t trust) (bundle.Certificates, error) {
	out := bundle.Certificates{Root: pemOf(t.root.Raw), Issuing: issuing(t)}
	for _, f := range []struct {
		name string
		into *[]byte
		need bool
	}{
		{"audit.pem", &out.Audit, true},
		{"ak-cert.pem", &out.AKCert, true},
		{bindingFile, &out.Binding, true},
		{ekFile, &out.EK, false},
		{heldFile, &out.TPMKeys, false},
	} {
		b, err := os.ReadFile(filepath.Join(c.pkiDir(), f.name))
		if err != nil && (f.need || !errors.Is(err, os.ErrNotExist)) {
			return out, fmt.Errorf("pki: %w", err)
		}
		*f.into = b
	}
	ak, err := readCertificates(filepath.Join(c.pkiDir(), "ak-cert.pem"))
	if err != nil {
		return out, fmt.Errorf("pki: %w", err)
	}
	out.AK = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: ak[0].RawSubjectPublicKeyInfo})
	return out, nil
}

func pemOf(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func issuing(t trust) [][]byte {
	var out [][]byte
	for _, c := range t.agents {
		out = append(out, pemOf(c.Raw))
	}
	for _, c := range t.services {
		out = append(out, pemOf(c.Raw))
	}
	return out
}
