package v1

import (
	"encoding/json"
	"time"
)

// VerifyRequest asks which checks a certificate chain passes. Nothing is decided, and nothing is recorded. What the caller
// names must pass.
type VerifyRequest struct {
	CertificateChain     []string  `json:"certificate_chain"` // PEM, leaf first
	RequiredScope        []string  `json:"required_scope,omitempty"`
	At                   time.Time `json:"at,omitzero"`                     // now by default
	ExpectedUser         *User     `json:"expected_user,omitempty"`         // whom the agent must act for
	ExpectedOrchestrator string    `json:"expected_orchestrator,omitempty"` // who must have spawned it; SPIFFE ID
	Delegations          []string  `json:"delegations,omitempty"`           // delegators' compact JWSs by hop, "" where there is none, as for hop 0
	Keys                 [][]byte  `json:"keys,omitempty"`                  // SubjectPublicKeyInfo by hop, base64, "" where it is unknown; needed with delegations
	Links                [][]Link  `json:"links,omitempty"`                 // re-keys by hop, oldest first; none for hop 0
	Grant                string    `json:"grant,omitempty"`                 // base64url of the canonical grant document
	MaxStaleness         int64     `json:"max_staleness,omitempty"`         // seconds between what is known of revocations, which is now, and at
	Require              []string  `json:"require,omitempty"`               // checks that must pass besides; logged is looked for in the appliance's own log
}

// VerifyReport has all checks, each by itself.
type VerifyReport struct {
	Valid      bool             `json:"valid"`
	Checks     map[string]Check `json:"checks"`
	Agent      string           `json:"agent,omitempty"` // SPIFFE ID of the leaf
	Delegation *Delegation      `json:"delegation,omitempty"`
}

// EvaluationRequest is an AuthZEN Authorization API 1.0 access evaluation request. Members unknown here are ignored.
type EvaluationRequest struct {
	Subject  Subject           `json:"subject"`
	Action   Action            `json:"action"`
	Resource Resource          `json:"resource"`
	Context  EvaluationContext `json:"context,omitzero"`
}

// Subject is who asks: type "agent", with its SPIFFE ID. What is known of it comes from its certificate alone.
type Subject struct {
	Type       string         `json:"type"`
	ID         string         `json:"id"`
	Properties map[string]any `json:"properties,omitempty"` // not looked at
}

// Action is what it wants to do.
type Action struct {
	Name       string         `json:"name"`
	Properties map[string]any `json:"properties,omitempty"` // not looked at
}

// Resource is what it wants to do it to.
type Resource struct {
	Type       string         `json:"type"`
	ID         string         `json:"id"`
	Properties map[string]any `json:"properties,omitempty"` // not looked at
}

// EvaluationContext is what the caller knows about the request.
type EvaluationContext struct {
	CertificateChain     []string `json:"certificate_chain,omitempty"`     // PEM, leaf first; an agent's own connection by default
	ExpectedUser         *User    `json:"expected_user,omitempty"`         // refuse agents of other users
	ExpectedOrchestrator string   `json:"expected_orchestrator,omitempty"` // refuse agents of other orchestrators; SPIFFE ID
}

// EvaluationResponse is the answer. A denial is an answer too.
type EvaluationResponse struct {
	Decision bool            `json:"decision"`
	Context  DecisionContext `json:"context"`
}

// DecisionContext says why, and where it is recorded.
type DecisionContext struct {
	DecisionID string           `json:"decision_id,omitempty"` // absent: nothing was decided
	Reasons    []string         `json:"reasons,omitempty"`     // codes; none when allowed
	Checks     map[string]Check `json:"checks,omitempty"`
	AuditID    *uint64          `json:"audit_id,omitempty"` // absent: not recorded, and hence denied
	// With wait=sealed alone: whether a seal covers the entry, and the number of one. False: it is durable, and not sealed yet.
	AuditSealed *bool   `json:"audit_sealed,omitempty"`
	AuditSeal   *uint64 `json:"audit_seal,omitempty"`
	// Obligations are objects of the policy's that the service has to act on, or deny; only with a permission.
	Obligations []json.RawMessage `json:"obligations,omitempty"`
	Advice      []json.RawMessage `json:"advice,omitempty"` // likewise, what it may act on
	Error       *EvaluationError  `json:"error,omitempty"`  // of one evaluation of several, which could not be decided
}

// EvaluationError is what the evaluation would have been refused with, had it been alone.
type EvaluationError struct {
	Status  int    `json:"status"`
	Message string `json:"message"`
}

// MaxEvaluations is how many evaluations one request may hold.
const MaxEvaluations = 100

// EvaluationsRequest asks for several decisions at once (AuthZEN 1.0, Access Evaluations). The members beside evaluations are
// defaults for those that an evaluation leaves out. Without evaluations they are a single one, and so is the answer.
type EvaluationsRequest struct {
	Subject     *Subject           `json:"subject,omitempty"`
	Action      *Action            `json:"action,omitempty"`
	Resource    *Resource          `json:"resource,omitempty"`
	Context     *EvaluationContext `json:"context,omitempty"`
	Evaluations []Evaluation       `json:"evaluations,omitempty"` // at most 100
	Options     EvaluationsOptions `json:"options,omitzero"`
}

// Evaluation is one of several. A member replaces its default whole, except that a type or id left out is the default's.
type Evaluation struct {
	Subject  *Subject           `json:"subject,omitempty"`
	Action   *Action            `json:"action,omitempty"`
	Resource *Resource          `json:"resource,omitempty"`
	Context  *EvaluationContext `json:"context,omitempty"`
}

// EvaluationsOptions says how to go through the evaluations.
type EvaluationsOptions struct {
	Semantic string `json:"evaluations_semantic,omitempty"` // one of the below; execute_all by default
}

// What ends a request for several evaluations.
const (
	ExecuteAll          = "execute_all"            // nothing: all are decided
	DenyOnFirstDeny     = "deny_on_first_deny"     // a denial or an error, which is the last answer
	PermitOnFirstPermit = "permit_on_first_permit" // a permission, which is the last answer
)

// EvaluationsResponse has one answer for each evaluation, in their order, up to the one that ended the request; or, where
// there were no evaluations, decision and context.
type EvaluationsResponse struct {
	Decision    *bool                `json:"decision,omitempty"`
	Context     *DecisionContext     `json:"context,omitempty"`
	Evaluations []EvaluationResponse `json:"evaluations,omitempty"`
}

// EnvoyDenial is what the client of an Envoy gets when the appliance denies its request.
type EnvoyDenial struct {
	Reasons    []string `json:"reasons"`               // codes
	Field      string   `json:"field,omitempty"`       // of the Envoy's question, if that is what is wrong
	DecisionID string   `json:"decision_id,omitempty"` // absent: nothing could be decided
	AuditID    *uint64  `json:"audit_id,omitempty"`    // of the entry that records it
}

// OPARequest is what a program written for OPA's Data API sends.
type OPARequest struct {
	Input OPAInput `json:"input"`
}

// OPAInput is the question. Members of the caller's own are refused: they would be looked at by nobody.
type OPAInput struct {
	CertificateChain     []string    `json:"certificate_chain,omitempty"` // of the agent, PEM, leaf first; an agent's own connection by default
	Resource             OPAResource `json:"resource"`
	Action               OPAAction   `json:"action"`
	ExpectedUser         *User       `json:"expected_user,omitempty"`         // refuse agents of other users
	ExpectedOrchestrator string      `json:"expected_orchestrator,omitempty"` // refuse agents of other orchestrators; SPIFFE ID
}

// OPAResource is what is to be accessed.
type OPAResource struct {
	Type string `json:"type"`
	ID   string `json:"id"`
}

// OPAAction is how.
type OPAAction struct {
	Name string `json:"name"`
}

// OPAResponse is empty for a document that is not defined. Result is an OPAAccess, or a boolean for signet/access/allow.
type OPAResponse struct {
	Result     any    `json:"result,omitempty"`
	DecisionID string `json:"decision_id,omitempty"`
}

// OPAAccess is the document signet/access.
type OPAAccess struct {
	Allow       bool             `json:"allow"`
	DenyReasons []string         `json:"deny_reasons"` // codes; none when allowed
	Checks      map[string]Check `json:"checks"`
	AuditID     *uint64          `json:"audit_id,omitempty"` // absent: not recorded, and hence denied
	// As in DecisionContext: what the program has to act on, or deny, and what it may act on.
	Obligations []json.RawMessage `json:"obligations,omitempty"`
	Advice      []json.RawMessage `json:"advice,omitempty"`
}

// AccessConfiguration is the AuthZEN metadata document of the appliance. There is no search, and hence no endpoint of it.
type AccessConfiguration struct {
	PolicyDecisionPoint       string `json:"policy_decision_point"`
	AccessEvaluationEndpoint  string `json:"access_evaluation_endpoint"`
	AccessEvaluationsEndpoint string `json:"access_evaluations_endpoint"`
}

// RevocationRequest ends a thing and all below it.
type RevocationRequest struct {
	Kind   string `json:"kind"`           // certificate, agent, subtree, task, grant, user, orchestrator
	ID     string `json:"id,omitempty"`   // serial in hex, UUID or orchestrator's name; none for a user
	User   *User  `json:"user,omitempty"` // of kind user
	Reason string `json:"reason,omitempty"`
}

// Revocation is one revoked thing.
type Revocation struct {
	Seq          uint64        `json:"seq"`
	Kind         string        `json:"kind"`
	ID           string        `json:"id,omitempty"`
	User         *User         `json:"user,omitempty"`
	Reason       string        `json:"reason,omitempty"`
	Time         time.Time     `json:"time"`
	Expires      time.Time     `json:"expires,omitzero"` // nothing valid can name it from then on, and it is dropped; absent: it stays
	AuditReceipt *AuditReceipt `json:"audit_receipt,omitempty"`
}

// RevocationPage lists revocations in the order in which they were made.
type RevocationPage struct {
	Revocations []Revocation `json:"revocations"`
	NextCursor  string       `json:"next_cursor"` // ask with it for what comes later, also when nothing came now
}

// FeedPoll asks for events of the feed (RFC 8936 §2.2). The names are the standard's.
type FeedPoll struct {
	MaxEvents         *int64                `json:"maxEvents,omitempty"`         // at most so many; 0 only acknowledges; never more than 256
	ReturnImmediately bool                  `json:"returnImmediately,omitempty"` // also when there is nothing
	Ack               []string              `json:"ack,omitempty"`               // jti of what arrived
	SetErrs           map[string]EventError `json:"setErrs,omitempty"`           // by jti, what the caller has no use for: it does not come again either
}

// MaxFeedAcks bounds Ack and SetErrs of one poll, together.
const MaxFeedAcks = 1024

// FeedEvents are the oldest events that the caller has not acknowledged (RFC 8936 §2.3).
type FeedEvents struct {
	Sets          map[string]string `json:"sets"` // by jti: Security Event Tokens
	MoreAvailable bool              `json:"moreAvailable,omitempty"`
}
