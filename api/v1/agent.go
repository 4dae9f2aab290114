package v1

import "time"

// SpawnRequest asks for an agent, or by an agent for a sub-agent. A retry is the same request with the same SpawnID.
type SpawnRequest struct {
	TaskID       string   `json:"task_id"`
	SpawnID      string   `json:"spawn_id"` // a UUIDv7 that the caller chooses; becomes the agent's id
	AgentType    string   `json:"agent_type"`
	Scope        []string `json:"scope"`
	TTL          int64    `json:"ttl,omitempty"`          // seconds; as long as allowed by default
	MaxDepth     int      `json:"max_depth,omitempty"`    // levels of sub-agents below this one
	CSR          string   `json:"csr,omitempty"`          // without one the answer has a token, which the agent redeems with its own CSR
	Confirmation string   `json:"confirmation,omitempty"` // the delegator's compact JWS; sub-agents need one
	// EnrollmentHash is base64url of SHA-256 of a token that the caller made, which its JWS names as cnf.enrol. Only without a CSR.
	EnrollmentHash string `json:"enrollment_hash,omitempty"`
}

// SpawnBatch is up to MaxSpawnBatch spawns, each answered by itself.
type SpawnBatch struct {
	Spawns []SpawnRequest `json:"spawns"`
}

// MaxSpawnBatch bounds a batch.
const MaxSpawnBatch = 128

// SpawnBatchResults are the outcomes of a batch, in the order of its spawns.
type SpawnBatchResults struct {
	Results []SpawnResult `json:"results"`
}

// SpawnResult is the outcome of one spawn of a batch: an agent or a problem.
type SpawnResult struct {
	Status  int      `json:"status"` // what POST /v1/agents would have answered
	Agent   *Spawned `json:"agent,omitempty"`
	Problem *Problem `json:"problem,omitempty"`
}

// AgentCertificateRequest redeems a token, or asks for a certificate for the next key of the agent that is connected.
type AgentCertificateRequest struct {
	CSR             string `json:"csr"`
	EnrollmentToken string `json:"enrollment_token,omitempty"`
	Link            string `json:"link,omitempty"` // compact JWS (agent-rekey+jwt) by the present key, over the next one
}

// Spawned is an agent's identity.
type Spawned struct {
	AgentID          string    `json:"agent_id"`
	SPIFFEID         string    `json:"spiffe_id"`
	CertificateChain []string  `json:"certificate_chain,omitempty"` // PEM, leaf first, without the root; absent with a token
	NotAfter         time.Time `json:"not_after"`
	// EnrollmentToken is what the agent redeems, once; absent where the caller made it.
	EnrollmentToken   string        `json:"enrollment_token,omitempty"`
	EnrollmentExpires *time.Time    `json:"enrollment_expires,omitempty"`
	AuditReceipt      *AuditReceipt `json:"audit_receipt,omitempty"` // absent on a retry
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
	Links            []Link    `json:"links,omitempty"`      // re-keys, oldest first
}

// Link is a re-key of an agent, with the key that signed it.
type Link struct {
	Link string `json:"link"` // compact JWS
	Key  []byte `json:"key"`  // SubjectPublicKeyInfo of the old key, base64
}

// AgentChain is what an agent's identity stands on.
type AgentChain struct {
	AgentID    string     `json:"agent_id"`
	Delegation Delegation `json:"delegation"`
	GrantHash  string     `json:"grant_hash"` // SHA-256 of the canonical grant
}
