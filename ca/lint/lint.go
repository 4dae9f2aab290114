// Package lint holds the rules that a certificate of a Signet deployment must satisfy, one per file: the profiles of
// agents and services, of the CAs that sign them, and of the audit, attestation and JWT keys.
//
// It reads parsed certificates and reports [Finding]s; it builds, signs and verifies nothing, and does not look at the
// clock: that a path verifies now is the business of crypto/x509. A certificate with any finding is not issued. A
// [Linter] is immutable and safe for concurrent use.
package lint

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Kind is what a certificate is for. The zero Kind is refused.
type Kind int

// The kinds of certificates.
const (
	KindUnknown    Kind = iota
	Agent               // minutes, with the delegation extension
	Service             // orchestrators, services, operators, the appliance's listener
	Root                // signs CAs, the audit key, the attestation key and the JWT key
	AgentCA             // signs agents only
	ServiceCA           // signs services only
	AuditKey            // signs checkpoints
	AttestationKey      // the TPM's restricted key, signs quotes
	JWTKey              // signs what relying services read: events and access tokens
)

// String is the kind in words, for messages.
func (k Kind) String() string {
	switch k {
	case Agent:
		return "agent"
	case Service:
		return "service"
	case Root:
		return "root CA"
	case AgentCA:
		return "agent CA"
	case ServiceCA:
		return "service CA"
	case AuditKey:
		return "audit key"
	case AttestationKey:
		return "attestation key"
	case JWTKey:
		return "JWT key"
	case KindUnknown:
	}
	return "unknown"
}

// Backdate is how far before the moment of issuance a leaf's NotBefore lies, for peers whose clocks are slow.
const Backdate = 30 * time.Second

// ShortLived is the longest life, NotBefore to NotAfter, of an agent certificate that is never in a CRL and says so
// (RFC 9608): ten minutes from issuance, and the backdating.
const ShortLived = 10*time.Minute + Backdate

// Expect is what a certificate is held against.
type Expect struct {
	Kind          Kind
	TrustDomain   string                // the SPIFFE trust domain, in lower case
	DelegationOID asn1.ObjectIdentifier // Agent: the delegation extension
	Issuer        *x509.Certificate     // the signing CA; nil for Root only
}

// Finding is one broken rule.
type Finding struct {
	Rule     string // stable identifier, for example "leaf_san"
	Citation string // where the rule comes from
	Detail   string // what is wrong with this certificate
}

// String is "rule: detail (citation)".
func (f Finding) String() string { return f.Rule + ": " + f.Detail + " (" + f.Citation + ")" }

// rule is one requirement. check returns what is wrong, or nothing.
type rule struct {
	id, citation string
	kinds        []Kind
	check        func(*x509.Certificate, Expect) string
}

// rules lists them all. It is a function because a package-level table would be mutable state.
func rules() []rule {
	return []rule{
		ruleVersion(), ruleSerial(), ruleIssuer(), ruleSignature(), ruleValidity(), rulePublicKey(), ruleKeyIDs(),
		ruleExtensions(), ruleRevocation(),
		ruleLeafBasic(), ruleLeafSubject(), ruleLeafKeyUsage(), ruleLeafExtKeyUsage(), ruleSAN(), ruleIssuerConstraints(),
		ruleDelegation(),
		ruleCABasic(), ruleCASubject(), ruleCAKeyUsage(), ruleCAExtKeyUsage(), ruleCANameConstraints(),
	}
}

func leafKinds() []Kind { return []Kind{Agent, Service, AuditKey, AttestationKey, JWTKey} }

func caKinds() []Kind { return []Kind{Root, AgentCA, ServiceCA} }

func allKinds() []Kind { return append(leafKinds(), caKinds()...) }

// Linter checks certificates of one kind and one issuer.
type Linter struct {
	expect Expect
	rules  []rule
}

// New picks the rules for what is expected.
func New(expect Expect) (*Linter, error) {
	if !slices.Contains(allKinds(), expect.Kind) {
		return nil, errors.New("lint: the kind of certificate is unknown")
	}
	if err := CheckTrustDomain(expect.TrustDomain); err != nil {
		return nil, fmt.Errorf("lint: trust domain: %w", err)
	}
	if expect.Kind == Agent && len(expect.DelegationOID) == 0 {
		return nil, errors.New("lint: agents need the delegation extension's identifier")
	}
	if (expect.Issuer == nil) != (expect.Kind == Root) {
		return nil, fmt.Errorf("lint: %s: every kind but the root needs its issuer", expect.Kind)
	}
	l := &Linter{expect: expect}
	for _, r := range rules() {
		if slices.Contains(r.kinds, expect.Kind) {
			l.rules = append(l.rules, r)
		}
	}
	return l, nil
}

// Run returns the broken rules, in a fixed order; none means that the certificate fits its profile.
func (l *Linter) Run(cert *x509.Certificate) []Finding {
	if cert == nil {
		return []Finding{{Rule: "certificate", Citation: "RFC 5280 §4.1", Detail: "there is none"}}
	}
	var found []Finding
	for _, r := range l.rules {
		if detail := r.check(cert, l.expect); detail != "" {
			found = append(found, Finding{Rule: r.id, Citation: r.citation, Detail: detail})
		}
	}
	return found
}

// Run checks one certificate. An unusable expectation is itself a finding.
func Run(cert *x509.Certificate, expect Expect) []Finding {
	l, err := New(expect)
	if err != nil {
		return []Finding{{Rule: "expectation", Citation: "package lint", Detail: err.Error()}}
	}
	return l.Run(cert)
}
