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
	RequireConfirmation bool   `json:"require_confirmation,omitempty"`
	X509PopRoots        string `json:"x509pop_roots,omitempty"` // PEM of the CAs accepted for x509pop; none by default
	Replace             bool   `json:"replace,omitempty"`       // the name is registered: new attributes, and a new token or certificate
}

// TypeLimit bounds the agents of one type.
type TypeLimit struct {
	MaxTTL   int64 `json:"max_ttl,omitempty"`   // seconds
	MaxDepth *int  `json:"max_depth,omitempty"` // levels of sub-agents below one
}

// OrchestratorRegistered carries the join token, which is shown this once and works once.
type OrchestratorRegistered struct {
	SPIFFEID         string        `json:"spiffe_id"`
	JoinToken        string        `json:"join_token"`
	JoinTokenExpires time.Time     `json:"join_token_expires"`
	AuditReceipt     *AuditReceipt `json:"audit_receipt,omitempty"`
}

// The methods of attestation.
const (
	MethodJoinToken = "join_token" // token
	MethodX509Pop   = "x509pop"    // the client certificate of this connection
)

// Attestation is an orchestrator's proof of who it is, with the CSR of the certificate that it wants.
type Attestation struct {
	Method string `json:"method"`
	Token  string `json:"token,omitempty"`
	CSR    string `json:"csr"`
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
