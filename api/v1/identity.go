package v1

import "time"

// OrchestratorRegistration makes an orchestrator known.
type OrchestratorRegistration struct {
	Name       string   `json:"name"`
	AgentTypes []string `json:"agent_types,omitempty"` // that it may spawn; none by default
	MaxTTL     int64    `json:"max_ttl,omitempty"`     // seconds; the longest life of its agents, 0 for the appliance's limit
	// TypeLimits narrow the limits for single agent types.
	TypeLimits map[string]TypeLimit `json:"type_limits,omitempty"`
	// RequireConfirmation refuses its spawns without its signed delegation.
	RequireConfirmation bool `json:"require_confirmation,omitempty"`
	// Methods are how it may attest; by default join_token and whatever is described below.
	Methods      []string `json:"methods,omitempty"`
	X509PopRoots string   `json:"x509pop_roots,omitempty"` // x509pop: PEM of the CAs accepted
	OIDCIssuer   string   `json:"oidc_issuer,omitempty"`   // oidc_jwt: the name of a configured issuer
	OIDCSubject  string   `json:"oidc_subject,omitempty"`  // oidc_jwt: exactly, like system:serviceaccount:NAMESPACE:NAME
	TPMEKs       []string `json:"tpm_eks,omitempty"`       // tpm_devid: SHA-256 of the endorsement keys' SPKI, hex
	Replace      bool     `json:"replace,omitempty"`       // the name is registered: new attributes, and a new token or certificate
}

// TypeLimit bounds the agents of one type.
type TypeLimit struct {
	MaxTTL   int64 `json:"max_ttl,omitempty"`   // seconds
	MaxDepth *int  `json:"max_depth,omitempty"` // levels of sub-agents below one
}

// OrchestratorRegistered carries the join token, if there is one; it is shown this once and works once.
type OrchestratorRegistered struct {
	SPIFFEID         string        `json:"spiffe_id"`
	JoinToken        string        `json:"join_token,omitempty"`
	JoinTokenExpires time.Time     `json:"join_token_expires,omitzero"`
	AuditReceipt     *AuditReceipt `json:"audit_receipt,omitempty"`
}

// The methods of attestation, and what each takes.
const (
	MethodJoinToken = "join_token" // token
	MethodX509Pop   = "x509pop"    // the client certificate of this connection
	MethodOIDC      = "oidc_jwt"   // token
	MethodTPM       = "tpm_devid"  // a Challenge and the TPM's answer to it
	MethodRenew     = "renew"      // the certificate to be renewed, as this connection's
)

// Attestation is an orchestrator's proof of who it is, with the CSR of the certificate that it wants.
type Attestation struct {
	Method string `json:"method"`
	Token  string `json:"token,omitempty"`
	CSR    string `json:"csr"`

	Challenge        string `json:"challenge,omitempty"`         // tpm_devid: as it was given
	Secret           []byte `json:"secret,omitempty"`            // tpm_devid: what TPM2_ActivateCredential found in it
	KeyPublic        []byte `json:"key_public,omitempty"`        // tpm_devid: TPMT_PUBLIC of the CSR's key
	CertifyInfo      []byte `json:"certify_info,omitempty"`      // tpm_devid: TPMS_ATTEST of TPM2_Certify over the SHA-256 of challenge
	CertifySignature []byte `json:"certify_signature,omitempty"` // tpm_devid: ASN.1 DER
}

// ChallengeRequest says which TPM, and which key in it. The public areas are TPMT_PUBLIC.
type ChallengeRequest struct {
	EKCertificate []byte `json:"ek_certificate"` // DER
	EKPublic      []byte `json:"ek_public"`
	AKPublic      []byte `json:"ak_public"`
	CSR           string `json:"csr"`
}

// Challenge is to be answered within its time, once, by that TPM, for that key and name.
type Challenge struct {
	Challenge       string    `json:"challenge"`
	CredentialBlob  []byte    `json:"credential_blob"`  // TPMS_ID_OBJECT
	EncryptedSecret []byte    `json:"encrypted_secret"` // content of the TPM2B_ENCRYPTED_SECRET
	Expires         time.Time `json:"expires"`
}

// Renewal asks for a new certificate over the connection's own.
type Renewal struct {
	CSR string `json:"csr"` // of the same key or another
}

// ServiceRegistration makes a service known, which may then ask for decisions.
type ServiceRegistration struct {
	Name    string `json:"name"`
	CSR     string `json:"csr"`
	Replace bool   `json:"replace,omitempty"` // the name is registered: new attributes, and a new token or certificate
}

// OperatorRegistration makes a person known.
type OperatorRegistration struct {
	Name    string `json:"name"`
	Role    string `json:"role"` // operator, security_officer, auditor, privacy_officer
	CSR     string `json:"csr"`
	Replace bool   `json:"replace,omitempty"` // the name is registered: new attributes, and a new token or certificate
}

// Certificate is an issued certificate.
type Certificate struct {
	SPIFFEID         string        `json:"spiffe_id"`
	CertificateChain []string      `json:"certificate_chain"` // PEM, leaf first, without the root
	NotAfter         time.Time     `json:"not_after"`
	AuditReceipt     *AuditReceipt `json:"audit_receipt,omitempty"`
}
