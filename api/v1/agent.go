package v1

import "time"

// SpawnRequest asks for an agent, or by an agent for a sub-agent. A retry is the same request with the same SpawnID.
type SpawnRequest struct {
	TaskID       string   `json:"task_id"`
	SpawnID      string   `json:"spawn_id"` // a UUIDv7 that the caller chooses; becomes the agent's id
	AgentType    string   `json:"agent_type"`
	Scope        []string `json:"scope"`
	TTL          int64    `json:"ttl,omitempty"`       // seconds; as long as allowed by default
	MaxDepth     int      `json:"max_depth,omitempty"` // levels of sub-agents below this one
	CSR          string   `json:"csr"`
	Confirmation string   `json:"confirmation,omitempty"` // the delegator's compact JWS; sub-agents need one
}

// Spawned is an agent's identity.
type Spawned struct {
	AgentID          string        `json:"agent_id"`
	SPIFFEID         string        `json:"spiffe_id"`
	CertificateChain []string      `json:"certificate_chain"` // PEM, leaf first, without the root
	NotAfter         time.Time     `json:"not_after"`
	AuditReceipt     *AuditReceipt `json:"audit_receipt,omitempty"` // absent on a retry
}

// Delegation is what an agent's certificate says about whom it acts for.
type Delegation struct {
	TaskID string          `json:"task_id"`
	Grant  DelegationGrant `json:"grant"`
	Hops   []Hop           `json:"hops"`
}

// DelegationGrant is the grant, as far as a certificate tells it.
type DelegationGrant struct {
	GrantID      string    `json:"grant_id"`
	Issuer       string    `json:"issuer"`
	Subject      string    `json:"subject"`
	ConsentType  string    `json:"consent_type"`
	EvidenceHash string    `json:"evidence_hash"`
	Scope        []string  `json:"scope"`
	NotAfter     time.Time `json:"not_after"`
	MaxDepth     int       `json:"max_depth"`
}

// Hop is one link of the chain; the first is the orchestrator.
type Hop struct {
	ID               string    `json:"id"` // SPIFFE ID
	SPKIHash         string    `json:"spki_hash"`
	Scope            []string  `json:"scope"`
	NotAfter         time.Time `json:"not_after"`
	MaxDepth         int       `json:"max_depth"`
	ConfirmationHash string    `json:"confirmation_hash,omitempty"`
	Delegation       string    `json:"delegation,omitempty"` // the delegator's compact JWS, where the log has it
}

// AgentChain is what an agent's identity stands on.
type AgentChain struct {
	AgentID    string     `json:"agent_id"`
	Delegation Delegation `json:"delegation"`
	GrantHash  string     `json:"grant_hash"` // SHA-256 of the canonical grant
}
