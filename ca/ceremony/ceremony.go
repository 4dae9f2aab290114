// Package ceremony makes the certificates that an appliance starts with: the root, agent and service CAs signed ahead
// with staggered validity, and the certificates of the audit key, of the key that signs statements for relying services, of
// the TPM's attestation key and of the first operator.
//
// [ParsePlan] turns a configuration into a checked [Plan]; [Run] generates keys by way of the caller's [Keys] and
// certifies them, in memory; [Result.Write] puts the certificates into files and replaces none. [Continue] does it over
// [Records], so that it goes on where it was interrupted and certifies nothing twice. Every certificate is
// linted, verified and followed to the root before it is returned. Private keys are never seen here.
//
// A ceremony is one sequence of acts: nothing here is meant for concurrent use. A Plan is immutable.
package ceremony

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/signet-pki/signet/ca/lint"
)

// Role is what a key is made for.
type Role string

// The roles of generated keys. The root wants P-384 or P-256, the CAs and the JWT key P-256, the audit key P-256, P-384
// or Ed25519.
const (
	RoleRoot      Role = "root"
	RoleAgentCA   Role = "agent_ca"
	RoleServiceCA Role = "service_ca"
	RoleAudit     Role = "audit"
	RoleJWT       Role = "jwt" // signs what relying services read: events and access tokens
)

// Keys makes keys inside devices. Generate creates a new key under a label that is unique in the ceremony ("root",
// "agent-ca-1", "audit", "jwt") and returns it with the URI by which the appliance finds it again. A label that exists
// already is an error, never a reused key.
type Keys interface {
	Generate(ctx context.Context, role Role, label string) (crypto.Signer, string, error)
}

// Records are what an interrupted ceremony has certified already.
type Records interface {
	// Certificate is the one that was kept under that name; nil if none was.
	Certificate(name string) ([]byte, error)
	// Keep is durable when it returns nil.
	Keep(name string, der []byte) error
}

// nothing keeps nothing.
type nothing struct{}

// Certificate has none.
func (nothing) Certificate(string) ([]byte, error) { return nil, nil }

// Keep forgets it.
func (nothing) Keep(string, []byte) error { return nil }

// clockSkew is how far before the ceremony the first certificates start, for peers whose clocks are slow.
const clockSkew = 5 * time.Minute

// authority is a CA with its key.
type authority struct {
	made   Certificate
	signer crypto.Signer
}

// run is the state of one ceremony.
type run struct {
	plan    Plan
	keys    Keys
	records Records
	start   time.Time
	root    authority
	seen    map[string]string // subject key identifier → name: no key twice
	result  Result
}

// Run holds the ceremony at the moment now. ak is the public part of the TPM's attestation key (*ecdsa.PublicKey,
// P-256). It stops at the first error; keys generated until then remain in their devices and are named in the error.
func Run(ctx context.Context, plan Plan, keys Keys, ak crypto.PublicKey, now time.Time) (Result, error) {
	return Continue(ctx, plan, keys, nothing{}, ak, now)
}

// Continue is Run for a ceremony that may have been interrupted: it takes the certificates that are kept, and keeps those that it
// makes. Plan, ak and now are those with which it began; what was kept and is not of them is refused.
func Continue(ctx context.Context, plan Plan, keys Keys, records Records, ak crypto.PublicKey, now time.Time) (Result, error) {
	if plan.trustDomain == "" {
		return Result{}, errors.New("ceremony: the plan is empty: use ParsePlan")
	}
	// Before the first key is made, since keys cannot be unmade here.
	if !isP256(ak) {
		return Result{}, errors.New("ceremony: the attestation key is not P-256")
	}
	r := &run{plan: plan, keys: keys, records: records, start: now.UTC().Truncate(time.Second).Add(-clockSkew), seen: map[string]string{}}
	if err := r.all(ctx, ak); err != nil {
		return Result{}, fmt.Errorf("ceremony: %w%s", err, r.leftovers())
	}
	return r.result, nil
}

func (r *run) all(ctx context.Context, ak crypto.PublicKey) error {
	if err := r.makeRoot(ctx); err != nil {
		return err
	}
	agents, err := r.issuing(ctx, RoleAgentCA, lint.AgentCA, r.plan.agents)
	if err != nil {
		return err
	}
	services, err := r.issuing(ctx, RoleServiceCA, lint.ServiceCA, r.plan.services)
	if err != nil {
		return err
	}
	for _, a := range agents {
		r.result.AgentCAs = append(r.result.AgentCAs, a.made)
	}
	for _, a := range services {
		r.result.ServiceCAs = append(r.result.ServiceCAs, a.made)
	}
	if err := r.makeAudit(ctx); err != nil {
		return err
	}
	if err := r.makeJWT(ctx); err != nil {
		return err
	}
	if err := r.makeAttestation(ak); err != nil {
		return err
	}
	return r.makeOperator(services[0])
}

func (r *run) makeRoot(ctx context.Context) error {
	signer, uri, err := r.generate(ctx, RoleRoot, "root")
	if err != nil {
		return err
	}
	template := rootTemplate(r.plan.root, r.start)
	made, err := r.certify(request{name: "root", kind: lint.Root, template: template, key: signer.Public(), uri: uri},
		authority{signer: signer})
	if err != nil {
		return err
	}
	r.root = authority{made: made, signer: signer}
	r.result.Root = made
	return nil
}

// issuing makes CAs of which each overlaps the one before it.
func (r *run) issuing(ctx context.Context, role Role, kind lint.Kind, p series) ([]authority, error) {
	made := make([]authority, 0, p.count)
	for n := range p.count {
		name := p.name + "-" + strconv.Itoa(n+1)
		signer, uri, err := r.generate(ctx, role, name)
		if err != nil {
			return nil, err
		}
		// One curve for all issuing CAs: every TPM has it, and an issuance has its cost (design, keys).
		if !isP256(signer.Public()) {
			return nil, fmt.Errorf("%s: the key is not P-256", name)
		}
		template := issuingTemplate(r.plan, p, n, r.start)
		c, err := r.certify(request{name: name, kind: kind, template: template, key: signer.Public(), uri: uri}, r.root)
		if err != nil {
			return nil, err
		}
		made = append(made, authority{made: c, signer: signer})
	}
	return made, nil
}

func (r *run) makeAudit(ctx context.Context) error {
	signer, uri, err := r.generate(ctx, RoleAudit, "audit")
	if err != nil {
		return err
	}
	template := keyTemplate(r.plan.origin, r.start, r.root.made.Leaf.NotAfter, lint.DocumentSigning())
	r.result.Audit, err = r.certify(
		request{name: "audit", kind: lint.AuditKey, template: template, key: signer.Public(), uri: uri}, r.root)
	return err
}

// makeJWT certifies the key of statements. Its purpose keeps it apart from the audit key, which the same root certifies.
func (r *run) makeJWT(ctx context.Context) error {
	signer, uri, err := r.generate(ctx, RoleJWT, "jwt")
	if err != nil {
		return err
	}
	template := keyTemplate(r.plan.trustDomain, r.start, r.root.made.Leaf.NotAfter, lint.JWTSigning())
	r.result.JWT, err = r.certify(
		request{name: "jwt", kind: lint.JWTKey, template: template, key: signer.Public(), uri: uri}, r.root)
	return err
}

func (r *run) makeAttestation(ak crypto.PublicKey) error {
	template := keyTemplate("Signet attestation key", r.start, r.root.made.Leaf.NotAfter, lint.AttestationPurpose())
	var err error
	r.result.AttestationKey, err = r.certify(
		request{name: "ak-cert", kind: lint.AttestationKey, template: template, key: ak}, r.root)
	return err
}

func (r *run) makeOperator(issuer authority) error {
	var err error
	r.result.Operator, err = r.certify(
		request{name: "operator", kind: lint.Service, template: operatorTemplate(r.plan, r.start), key: r.plan.operator.key}, issuer)
	return err
}

func (r *run) generate(ctx context.Context, role Role, label string) (crypto.Signer, string, error) {
	if err := ctx.Err(); err != nil {
		return nil, "", fmt.Errorf("%s: %w", label, err)
	}
	signer, uri, err := r.keys.Generate(ctx, role, label)
	if err != nil {
		return nil, "", fmt.Errorf("%s: generate key: %w", label, err)
	}
	if signer == nil || uri == "" {
		return nil, "", fmt.Errorf("%s: generate key: no key or no URI", label)
	}
	spki, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, "", fmt.Errorf("%s: generate key: %w", label, err)
	}
	hash := sha256.Sum256(spki)
	r.result.Transcript = append(r.result.Transcript, Step{Act: ActGenerate, Name: label, Role: role, KeyURI: uri, KeyHash: hex.EncodeToString(hash[:])})
	return signer, uri, nil
}

func isP256(key crypto.PublicKey) bool {
	k, ok := key.(*ecdsa.PublicKey)
	return ok && k != nil && k.Curve == elliptic.P256()
}

// leftovers names what a stopped ceremony has left in devices.
func (r *run) leftovers() string {
	text := ""
	for _, s := range r.result.Transcript {
		if s.Act == ActGenerate {
			text += " " + s.KeyURI
		}
	}
	if text == "" {
		return ""
	}
	return "; keys already made:" + text
}

// path is the pool pair for following a certificate to the root.
func (r *run) path(cert *x509.Certificate, issuer authority) x509.VerifyOptions {
	root := r.root.made.Leaf
	if root == nil {
		root = cert // the root itself
	}
	opts := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: cert.NotBefore.Add(time.Second),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	opts.Roots.AddCert(root)
	if issuer.made.Leaf != nil {
		opts.Intermediates.AddCert(issuer.made.Leaf)
	}
	return opts
}
