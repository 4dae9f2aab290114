// Package chain is the delegation chain that an agent's certificate carries: its DER extension, scope algebra, SPIFFE IDs,
// the grant document that a user consents to, the delegators' signatures, and the verification of all of it.
//
// It is pure: it takes no clock, network, device or state, and compiles to WebAssembly. Everything it reads is bounded and
// parsed strictly; whatever it accepts it writes back byte for byte. It refuses what it does not know: versions, fields,
// kinds, algorithms. It does not say who may delegate what to whom (package policy) and it signs no certificates (package ca).
//
// All functions and values are safe for concurrent use as long as nobody changes a value that is being read.
package chain

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"time"
)

// OIDString is the certificate extension's object identifier: an interim arc made from a UUID split into parts below 2^24
// under 1.2.840.113556.1.8000.2554. It is replaced by an arc below a private enterprise number before a release.
const OIDString = "1.2.840.113556.1.8000.2554.27687.29834.27655.16587.39789.4042046.12651941"

// OID returns OIDString in the form of encoding/asn1, as a fresh slice.
func OID() asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{1, 2, 840, 113556, 1, 8000, 2554, 27687, 29834, 27655, 16587, 39789, 4042046, 12651941}
}

// Bounds of everything that this package reads.
const (
	MaxTokens           = 64              // tokens in a scope
	MaxTokenBytes       = 256             // bytes in a token
	MaxDepth            = 8               // of a grant and of every hop
	MinHops             = 2               // in a certificate: the orchestrator and the agent
	MaxHops             = 10              // in a certificate
	MaxIssuerBytes      = 512             // of the identity provider's issuer
	MaxSubjectBytes     = 255             // of the user's subject (OpenID Connect Core §2)
	MaxExtensionBytes   = 12 << 10        // of the extension's DER
	MaxCertificateBytes = 16 << 10        // of one certificate's DER
	MaxChain            = 8               // certificates presented
	MaxCSRBytes         = 16 << 10        // of a CSR, DER or PEM
	MaxDelegationBytes  = 16 << 10        // of a compact JWS
	MaxRekeyBytes       = 4 << 10         // of a re-key link, a compact JWS
	MaxRekeys           = 1024            // re-key links of one hop
	MaxGrantBytes       = 32 << 10        // of a grant document
	MaxAgentTypes       = 32              // in a grant document
	MaxTaskRunes        = 256             // in a grant document's description of the task
	MaxSkew             = 5 * time.Minute // the largest clock skew that Verify honours
)

// ConsentType is how the user consented. Only the zero value is not an answer; the numbers are on the wire.
type ConsentType int

// The types of consent, strongest first.
const (
	ConsentUnknown ConsentType = iota
	WebAuthn
	JWS
	OIDCNonce
	TokenExchange
)

// String returns the name used in JSON and in policy, or "unknown".
func (c ConsentType) String() string {
	switch c {
	case WebAuthn:
		return "webauthn"
	case JWS:
		return "jws"
	case OIDCNonce:
		return "oidc_nonce"
	case TokenExchange:
		return "token_exchange"
	case ConsentUnknown:
	}
	return "unknown"
}

// ParseConsentType is the inverse of String for the four known types, and ConsentUnknown for anything else.
func ParseConsentType(s string) ConsentType {
	for _, c := range [...]ConsentType{WebAuthn, JWS, OIDCNonce, TokenExchange} {
		if c.String() == s {
			return c
		}
	}
	return ConsentUnknown
}

// Delegation is the content of the extension, version 1. A value with one hop (the orchestrator) is the start of a chain;
// only one with MinHops or more can be marshalled.
type Delegation struct {
	TaskID [16]byte
	Grant  Grant
	Hops   []Hop // Hops[0] is the orchestrator, the last one the certificate's subject
}

// Grant is what the user consented to, as far as a certificate tells it.
type Grant struct {
	Issuer       string // OIDC iss
	Subject      string // OIDC sub
	GrantID      [16]byte
	Consent      ConsentType
	EvidenceHash [32]byte // SHA-256 of the consent's evidence
	Scope        Scope
	NotAfter     time.Time // UTC, whole seconds
	MaxDepth     int       // how many levels of agents the orchestrator may spawn
}

// Hop is one link of the chain.
type Hop struct {
	ID           string   // SPIFFE ID
	SPKIHash     [32]byte // SHA-256 of the SubjectPublicKeyInfo at delegation time
	Scope        Scope
	NotAfter     time.Time // UTC, whole seconds
	MaxDepth     int       // how many further levels this hop may spawn
	Confirmation *[32]byte // SHA-256 of the delegator's compact JWS about this hop; nil if it signed none, always nil for Hops[0]
}

// TBSHash is a certificate's identity everywhere in Signet: SHA-256 of its TBSCertificate.
func TBSHash(cert *x509.Certificate) [32]byte { return sha256.Sum256(cert.RawTBSCertificate) }

// SPKIHash is SHA-256 of the certificate's SubjectPublicKeyInfo.
func SPKIHash(cert *x509.Certificate) [32]byte { return sha256.Sum256(cert.RawSubjectPublicKeyInfo) }

// Serial returns a certificate's serial number as lower-case hex, two digits a byte, without leading zero bytes.
func Serial(cert *x509.Certificate) string { return hex.EncodeToString(cert.SerialNumber.Bytes()) }
