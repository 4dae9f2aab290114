package v1

import "time"

// GrantRequest is what an orchestrator asks a user to consent to.
type GrantRequest struct {
	Task       string    `json:"task"` // in plain words, at most 256 characters: the user reads it
	Scope      []string  `json:"scope"`
	NotAfter   time.Time `json:"not_after"`
	MaxDepth   int       `json:"max_depth"`
	AgentTypes []string  `json:"agent_types"`
}

// Grant is what a user was asked to consent to, and where that stands.
type Grant struct {
	GrantID      string        `json:"grant_id"`
	TaskID       string        `json:"task_id"`
	Status       string        `json:"status"` // pending, active, revoked, expired
	Task         string        `json:"task"`
	Scope        []string      `json:"scope"`
	NotAfter     time.Time     `json:"not_after"`
	MaxDepth     int           `json:"max_depth"`
	AgentTypes   []string      `json:"agent_types"`
	Orchestrator string        `json:"orchestrator"` // SPIFFE ID
	ConsentURL   string        `json:"consent_url,omitempty"`
	GrantHash    string        `json:"grant_hash,omitempty"` // of the canonical grant; once consented
	AuditReceipt *AuditReceipt `json:"audit_receipt,omitempty"`
}

// GrantSignature is a user's consent by signature: a compact JWS of type agent-grant+jws over the grant document.
type GrantSignature struct {
	JWS string `json:"jws"`
}

// TokenExchange is a user's consent by a token that the orchestrator holds (RFC 8693 §2.1).
type TokenExchange struct {
	SubjectToken     string `json:"subject_token"`
	SubjectTokenType string `json:"subject_token_type"` // urn:ietf:params:oauth:token-type:access_token or …:jwt
}

// GrantConsent is where a grant stands after its user's consent.
type GrantConsent struct {
	GrantID   string `json:"grant_id"`
	Status    string `json:"status"`
	GrantHash string `json:"grant_hash"` // of the canonical grant
}

// EventError refuses a Security Event Token (RFC 8935 §2.3).
type EventError struct {
	Err         string `json:"err"`
	Description string `json:"description"`
}

// TaskRequest opens the task of a grant.
type TaskRequest struct {
	GrantID  string    `json:"grant_id"`
	Scope    []string  `json:"scope,omitempty"`    // the grant's by default
	NotAfter time.Time `json:"not_after,omitzero"` // the grant's by default
}

// Task is a unit of work under a grant.
type Task struct {
	TaskID       string        `json:"task_id"`
	GrantID      string        `json:"grant_id"`
	Status       string        `json:"status"` // open, completed, revoked, expired
	Scope        []string      `json:"scope"`
	NotAfter     time.Time     `json:"not_after"`
	MaxDepth     int           `json:"max_depth"`
	Orchestrator string        `json:"orchestrator"` // SPIFFE ID
	AuditReceipt *AuditReceipt `json:"audit_receipt,omitempty"`
}
