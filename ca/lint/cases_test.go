package lint_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/signet-pki/signet/ca/lint"
)

// broken is one certificate that breaks one rule: through its template, or where crypto/x509 would not encode such a
// thing, in its parsed form.
type broken struct {
	rule, name string
	kind       lint.Kind
	template   func(*x509.Certificate)
	parsed     func(*x509.Certificate)
}

func san(names ...asn1.RawValue) []byte {
	der, err := asn1.Marshal(names)
	if err != nil {
		panic(err)
	}
	return der
}

func setSAN(value []byte) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		for i := range c.Extensions {
			if c.Extensions[i].Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
				c.Extensions[i].Value = value
			}
		}
	}
}

func name(tag int, text string) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte(text)}
}

func brokenLeaves() []broken {
	good := "spiffe://hospital.example/agent/research/" + agentID
	type tc = *x509.Certificate
	return []broken{
		{rule: "version", kind: lint.Agent, parsed: func(c tc) { c.Version = 1 }},
		{rule: "serial", name: "zero", kind: lint.Agent, parsed: func(c tc) { c.SerialNumber = new(big.Int) }},
		{rule: "serial", name: "negative", kind: lint.Agent, parsed: func(c tc) { c.SerialNumber = new(big.Int).Neg(c.SerialNumber) }},
		{rule: "serial", name: "short", kind: lint.Service, template: func(c tc) { c.SerialNumber = big.NewInt(7) }},
		{rule: "serial", name: "long", kind: lint.Root, template: func(c tc) { c.SerialNumber = new(big.Int).Lsh(big.NewInt(1), 127) }},
		{rule: "issuer", kind: lint.Agent, parsed: func(c tc) { c.RawIssuer = []byte{0x30, 0x00} }},
		{rule: "signature_algorithm", kind: lint.Agent, template: func(c tc) { c.SignatureAlgorithm = x509.ECDSAWithSHA512 }},
		{rule: "validity", name: "beyond", kind: lint.Service, template: func(c tc) { c.NotAfter = start.Add(101 * time.Hour) }},
		{rule: "validity", name: "before", kind: lint.Service, template: func(c tc) { c.NotBefore = start.Add(-time.Second) }},
		{rule: "validity", name: "empty", kind: lint.Service, template: func(c tc) { c.NotAfter = c.NotBefore }},
		{rule: "public_key", name: "RSA", kind: lint.Service, parsed: func(c tc) { c.RawSubjectPublicKeyInfo = rsaSPKI() }},
		{rule: "public_key", name: "trailing byte", kind: lint.Agent, parsed: func(c tc) {
			c.RawSubjectPublicKeyInfo = append(slices.Clone(c.RawSubjectPublicKeyInfo), 0)
		}},
		{rule: "key_identifiers", name: "subject", kind: lint.Agent, template: func(c tc) { c.SubjectKeyId = []byte{1} }},
		{rule: "key_identifiers", name: "authority", kind: lint.Agent, parsed: func(c tc) { c.AuthorityKeyId = nil }},
		{rule: "extensions", name: "unknown", kind: lint.Agent, template: func(c tc) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{5, 0}})
		}},
		{rule: "extensions", name: "delegation on a service", kind: lint.Service, template: func(c tc) {
			c.ExtraExtensions = append(c.ExtraExtensions, delegation())
		}},
		{rule: "extensions", name: "basic constraints on a leaf", kind: lint.Agent, template: func(c tc) { c.BasicConstraintsValid = true }},
		{rule: "extensions", name: "critical SAN", kind: lint.Service, parsed: func(c tc) {
			for i := range c.Extensions {
				c.Extensions[i].Critical = true
			}
		}},
		{rule: "extensions", name: "unknown critical", kind: lint.Agent, parsed: func(c tc) {
			c.UnhandledCriticalExtensions = []asn1.ObjectIdentifier{{1, 2, 3}}
		}},
		{rule: "revocation", name: "short without noRevAvail", kind: lint.Agent, template: func(c tc) { c.ExtraExtensions = []pkix.Extension{delegation()} }},
		{rule: "revocation", name: "long with noRevAvail", kind: lint.Agent, template: func(c tc) { c.NotAfter = c.NotAfter.Add(time.Second) }},
		{rule: "revocation", name: "both", kind: lint.Agent, template: func(c tc) { c.CRLDistributionPoints = []string{"http://a/b"} }},
		{rule: "revocation", name: "short with a pointer", kind: lint.Agent, template: func(c tc) {
			c.ExtraExtensions, c.CRLDistributionPoints = []pkix.Extension{delegation()}, []string{"http://a/b"}
		}},
		{rule: "revocation", name: "not NULL", kind: lint.Agent, template: func(c tc) {
			c.ExtraExtensions = []pkix.Extension{delegation(), {Id: noRevAvail().Id, Value: []byte{4, 0}}}
		}},
		{rule: "revocation", name: "service with noRevAvail", kind: lint.Service, template: func(c tc) {
			c.ExtraExtensions, c.CRLDistributionPoints = []pkix.Extension{noRevAvail()}, nil
		}},
		{rule: "revocation", name: "two pointers", kind: lint.Service, template: func(c tc) { c.CRLDistributionPoints = []string{"http://a/b", "http://a/c"} }},
		{rule: "revocation", name: "pointer is LDAP", kind: lint.Service, template: func(c tc) { c.CRLDistributionPoints = []string{"ldap://a/b"} }},
		{rule: "revocation", name: "OCSP", kind: lint.Service, parsed: func(c tc) { c.OCSPServer = []string{"http://a"} }},
		{rule: "leaf_not_ca", kind: lint.Service, template: func(c tc) { c.IsCA, c.BasicConstraintsValid = true, true }},
		{rule: "leaf_subject", name: "other id", kind: lint.Agent, template: func(c tc) { c.Subject.CommonName = "agent" }},
		{rule: "leaf_subject", name: "UUIDv4", kind: lint.Agent, template: func(c tc) { c.Subject.CommonName = "9f8b3bd8-6c1f-4a55-9b57-1d6c3d1f0f4e" }},
		{rule: "leaf_subject", name: "more than a name", kind: lint.Service, template: func(c tc) { c.Subject.Organization = []string{"O"} }},
		{rule: "leaf_subject", name: "dot", kind: lint.Service, template: func(c tc) { c.Subject.CommonName = "a.b" }},
		{rule: "leaf_subject", name: "none", kind: lint.Service, template: func(c tc) { c.Subject.CommonName = "" }},
		{rule: "leaf_subject", name: "long", kind: lint.Service, template: func(c tc) { c.Subject.CommonName = strings.Repeat("a", 65) }},
		{rule: "leaf_subject", name: "control", kind: lint.Service, template: func(c tc) { c.Subject.CommonName = "a\nb" }},
		{rule: "leaf_key_usage", kind: lint.Agent, template: func(c tc) { c.KeyUsage |= x509.KeyUsageKeyEncipherment }},
		{rule: "leaf_key_usage", name: "absent", kind: lint.AuditKey, template: func(c tc) { c.KeyUsage = 0 }},
		{rule: "leaf_ext_key_usage", kind: lint.Agent, template: func(c tc) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }},
		{rule: "leaf_ext_key_usage", name: "audit", kind: lint.AuditKey, template: func(c tc) { c.UnknownExtKeyUsage = nil }},
		{rule: "leaf_ext_key_usage", name: "jwt", kind: lint.JWTKey, template: func(c tc) { c.UnknownExtKeyUsage[0] = lint.DocumentSigning() }},
		{rule: "leaf_ext_key_usage", name: "attestation", kind: lint.AttestationKey, template: func(c tc) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }},
		{rule: "leaf_san", name: "none", kind: lint.Agent, template: func(c tc) { c.URIs = nil }},
		{rule: "leaf_san", name: "DNS on an agent", kind: lint.Agent, template: func(c tc) { c.DNSNames = []string{"a.example"} }},
		{rule: "leaf_san", name: "IP on an agent", kind: lint.Agent, template: func(c tc) { c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} }},
		{rule: "leaf_san", name: "mail on an agent", kind: lint.Agent, template: func(c tc) { c.EmailAddresses = []string{"a@b.example"} }},
		{rule: "leaf_san", name: "mail on a service", kind: lint.Service, template: func(c tc) { c.EmailAddresses = []string{"a@b.example"} }},
		{rule: "leaf_san", name: "registered id on an agent", kind: lint.Agent, parsed: setSAN(san(name(6, good), name(8, "\x2a")))},
		{rule: "leaf_san", name: "two URIs", kind: lint.Agent, parsed: setSAN(san(name(6, good), name(6, good)))},
		{rule: "leaf_san", name: "trailing", kind: lint.Agent, parsed: setSAN(append(san(name(6, good)), 0))},
		{rule: "leaf_san", name: "too many", kind: lint.Service, parsed: setSAN(san(append([]asn1.RawValue{name(6, good)}, slices.Repeat([]asn1.RawValue{name(2, "a.example")}, 64)...)...))},
		{rule: "leaf_san", name: "wildcard", kind: lint.Service, template: func(c tc) { c.DNSNames = []string{"*.signet.example"} }},
		{rule: "leaf_san", name: "trust domain", kind: lint.Agent, template: func(c tc) { c.URIs = uri("spiffe://sub.hospital.example/agent/research/" + agentID) }},
		{rule: "leaf_san", name: "trust domain's case", kind: lint.Agent, template: func(c tc) { c.URIs = uri("spiffe://Hospital.example/agent/research/" + agentID) }},
		{rule: "leaf_san", name: "port", kind: lint.Agent, template: func(c tc) { c.URIs = uri("spiffe://hospital.example:1/agent/research/" + agentID) }},
		{rule: "leaf_san", name: "query", kind: lint.Agent, template: func(c tc) { c.URIs = uri(good + "?a=b") }},
		{rule: "leaf_san", name: "escape", kind: lint.Service, template: func(c tc) { c.URIs = uri("spiffe://hospital.example/%61gent/x") }},
		{rule: "leaf_san", name: "dots", kind: lint.Service, template: func(c tc) { c.URIs = uri("spiffe://hospital.example/service/../agent") }},
		{rule: "leaf_san", name: "https", kind: lint.Service, template: func(c tc) { c.URIs = uri("https://hospital.example/service/records") }},
		{rule: "leaf_san", name: "path", kind: lint.Agent, template: func(c tc) { c.URIs = uri("spiffe://hospital.example/service/records") }},
		{rule: "leaf_san", name: "other id", kind: lint.Agent, template: func(c tc) { c.URIs = uri("spiffe://hospital.example/agent/research/x") }},
		{rule: "leaf_san", name: "agent as a service", kind: lint.Service, template: func(c tc) { c.URIs = uri(good) }},
		{rule: "issuer_constraints", name: "DNS", kind: lint.Service, template: func(c tc) { c.DNSNames = []string{"notsignet.example"} }},
		{rule: "issuer_constraints", name: "IP", kind: lint.Service, template: func(c tc) { c.IPAddresses = []net.IP{net.IPv4(11, 0, 0, 1)} }},
		{rule: "issuer_constraints", name: "URI", kind: lint.Service, template: func(c tc) { c.URIs = uri("spiffe://other.example/service/records") }},
		{rule: "delegation", name: "absent", kind: lint.Agent, template: func(c tc) { c.ExtraExtensions = c.ExtraExtensions[1:] }},
		{rule: "delegation", name: "critical", kind: lint.Agent, parsed: func(c tc) {
			for i := range c.Extensions {
				c.Extensions[i].Critical = true
			}
		}},
		{rule: "delegation", name: "twice", kind: lint.Agent, parsed: func(c tc) { c.Extensions = append(c.Extensions, delegation()) }},
		{rule: "delegation", name: "trailing", kind: lint.Agent, template: func(c tc) {
			c.ExtraExtensions[0].Value = append(c.ExtraExtensions[0].Value, 0)
		}},
	}
}

func brokenCAs() []broken {
	type tc = *x509.Certificate
	return []broken{
		{rule: "public_key", name: "RSA agent CA", kind: lint.AgentCA, parsed: func(c tc) { c.RawSubjectPublicKeyInfo = rsaSPKI() }},
		{rule: "public_key", name: "P-384 in a TPM", kind: lint.AttestationKey, parsed: func(c tc) { c.RawSubjectPublicKeyInfo = p384SPKI() }},
		{rule: "revocation", name: "noRevAvail on a CA", kind: lint.AgentCA, template: func(c tc) { c.ExtraExtensions = []pkix.Extension{noRevAvail()} }},
		{rule: "ca_path_length", name: "root", kind: lint.Root, template: func(c tc) { c.MaxPathLen = 2 }},
		{rule: "ca_path_length", name: "none", kind: lint.AgentCA, template: func(c tc) { c.MaxPathLenZero, c.MaxPathLen = false, -1 }},
		{rule: "ca_path_length", name: "no CA", kind: lint.ServiceCA, template: func(c tc) { c.IsCA, c.BasicConstraintsValid = false, false; c.MaxPathLenZero = false }},
		{rule: "ca_subject", name: "none", kind: lint.AgentCA, template: func(c tc) { c.Subject = pkix.Name{Organization: []string{"O"}} }},
		{rule: "ca_subject", name: "self-issued", kind: lint.AgentCA, template: func(c tc) { c.Subject.CommonName = "Hospital root CA" }},
		{rule: "ca_key_usage", kind: lint.ServiceCA, template: func(c tc) { c.KeyUsage |= x509.KeyUsageDigitalSignature }},
		{rule: "ca_ext_key_usage", name: "root", kind: lint.Root, template: func(c tc) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }},
		{rule: "ca_ext_key_usage", kind: lint.AgentCA, template: func(c tc) { c.ExtKeyUsage = nil }},
		{rule: "ca_name_constraints", name: "root", kind: lint.Root, template: func(c tc) { c.PermittedURIDomains = []string{trustDomain} }},
		{rule: "ca_name_constraints", name: "none", kind: lint.AgentCA, template: func(c tc) { c.PermittedURIDomains = nil }},
		{rule: "ca_name_constraints", name: "two hosts", kind: lint.AgentCA, template: func(c tc) { c.PermittedURIDomains = append(c.PermittedURIDomains, "b.example") }},
		{rule: "ca_name_constraints", name: "DNS exclusion on an agent CA", kind: lint.AgentCA, template: func(c tc) { c.ExcludedDNSDomains = []string{""} }},
		{rule: "ca_name_constraints", name: "mail", kind: lint.ServiceCA, template: func(c tc) { c.ExcludedEmailAddresses = []string{"b.example"} }},
		{rule: "ca_name_constraints", name: "DNS free", kind: lint.ServiceCA, template: func(c tc) { c.PermittedDNSDomains = nil }},
		{rule: "ca_name_constraints", name: "IPs free", kind: lint.ServiceCA, template: func(c tc) { c.PermittedIPRanges = nil }},
		{rule: "ca_name_constraints", name: "IPv6 free", kind: lint.ServiceCA, template: func(c tc) {
			c.PermittedIPRanges, c.ExcludedIPRanges = nil, []*net.IPNet{ipNet("0.0.0.0/0")}
		}},
		{rule: "extensions", name: "constraints not critical", kind: lint.AgentCA, template: func(c tc) { c.PermittedDNSDomainsCritical = false }},
	}
}

func rsaSPKI() []byte {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		panic(err)
	}
	return der
}

func p384SPKI() []byte {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		panic(err)
	}
	return der
}
