// Package policy holds what a policy is asked and what it answers: the typed Input document and the Decision.
//
// It decides nothing itself: package policy/opa does. It knows no source address and no clock; the time of a request
// is part of its Input, so that a recorded decision can be replayed. The zero Decision denies. Values are plain data:
// safe to read concurrently, not to change.
package policy

import (
	"encoding/json"
	"time"
)

// Point is the place where policy is asked. The zero Point is none, and is denied.
type Point string

// The points of enforcement.
const (
	PointSpawn  Point = "spawn"  // before an agent gets a certificate
	PointToken  Point = "token"  // before an agent gets an access token for a service
	PointAccess Point = "access" // before an agent gets at a resource
)

// Reasons that the engine gives itself. Others come from the active bundle's deny_reasons.
const (
	ReasonUndefined  = "policy_undefined"   // the bundle says nothing about this point
	ReasonError      = "policy_error"       // evaluation failed
	ReasonTimeout    = "policy_timeout"     // evaluation took longer than it may
	ReasonNotBoolean = "policy_not_boolean" // allow is neither true nor false
	ReasonBusy       = "policy_busy"        // no place to evaluate became free in time
	ReasonInput      = "policy_input"       // the input document breaks its own bounds
	ReasonDenied     = "policy_denied"      // the bundle denied and gave no reason
	ReasonObligation = "policy_obligations" // obligations are no bounded list of JSON objects
	ReasonAdvice     = "policy_advice"      // likewise advice

	ReasonUnavailable = "policy_unavailable" // no bundle is loaded
)

// Input is the document that a policy sees as `input`; docs/formats/policy-input.md describes its JSON form.
// A spawn has Request; a token Request and Resource, the service; an access Resource and Action. It never holds a source address.
type Input struct {
	Point        Point        `json:"point"`
	Time         time.Time    `json:"time"`
	Agent        Agent        `json:"agent"`
	Hops         []Hop        `json:"hops"`
	User         User         `json:"user"`
	Consent      Consent      `json:"consent"`
	Task         Task         `json:"task"`
	Orchestrator Orchestrator `json:"orchestrator"`
	Revocation   Revocation   `json:"revocation"`
	Request      *Request     `json:"request,omitempty"`
	Resource     *Resource    `json:"resource,omitempty"`
	Action       *Action      `json:"action,omitempty"`
}

// Agent is the agent that is to be made, or that asks for access. Depth counts its hops from the orchestrator (1 = spawned
// by the orchestrator itself).
type Agent struct {
	ID       string    `json:"id"`
	Type     string    `json:"type"`
	SPIFFEID string    `json:"spiffe_id"`
	Scope    []string  `json:"scope"`
	NotAfter time.Time `json:"not_after,omitzero"`
	Depth    int       `json:"depth"`
}

// Hop is one link of the delegation chain; the first is the orchestrator. ID is a SPIFFE ID. Confirmed says that its
// delegator signed for it.
type Hop struct {
	ID        string    `json:"id"`
	Scope     []string  `json:"scope"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	MaxDepth  int       `json:"max_depth"`
	Confirmed bool      `json:"confirmed"`
}

// User is who consented, with the claims of that moment and not of now.
type User struct {
	Issuer   string    `json:"issuer"`
	Subject  string    `json:"subject"`
	Roles    []string  `json:"roles"`
	Groups   []string  `json:"groups"`
	ACR      string    `json:"acr"`
	AMR      []string  `json:"amr"`
	AuthTime time.Time `json:"auth_time,omitzero"`
}

// Consent is how the user consented: webauthn, jws, oidc_nonce or token_exchange.
type Consent struct {
	Type string `json:"type"`
}

// Task is the unit of work that the agent belongs to.
type Task struct {
	ID       string    `json:"id"`
	GrantID  string    `json:"grant_id"`
	Purpose  string    `json:"purpose"`
	Scope    []string  `json:"scope"`
	NotAfter time.Time `json:"not_after,omitzero"`
}

// Orchestrator is the workload that runs the task; Attestation is how it proved itself (join_token, x509pop, …).
type Orchestrator struct {
	ID          string `json:"id"`
	Attestation string `json:"attestation"`
}

// Revocation is the view of revocations that the chain was checked with: all that were made until AsOf, none with a higher
// number than Seq of Epoch, the newest made at Changed. Without Changed there is none.
type Revocation struct {
	AsOf    time.Time `json:"as_of,omitzero"`
	Epoch   uint64    `json:"epoch"`
	Seq     uint64    `json:"seq"`
	Changed time.Time `json:"changed,omitzero"`
}

// Request is what a spawn asks for.
type Request struct {
	Scope      []string `json:"scope"`
	TTLSeconds int64    `json:"ttl_seconds"`
	MaxDepth   int      `json:"max_depth"`
}

// Resource is what an access wants to get at. RequiredScope comes from the appliance's table, never from the caller.
type Resource struct {
	Type          string   `json:"type"`
	ID            string   `json:"id"`
	RequiredScope []string `json:"required_scope"`
}

// Action is what an access wants to do with the resource.
type Action struct {
	Name string `json:"name"`
}

// Decision is a policy's answer. The zero Decision denies.
type Decision struct {
	Allow bool
	// Reasons says why not, sorted; empty when Allow, never empty otherwise.
	Reasons []string
	// Digest is the lower-case hex SHA-256 of the archive of the bundle that answered; Revision is that bundle's own name
	// for itself.
	Digest, Revision string
	// Obligations are what goes with an allow and the enforcement point has to do, Advice what it may; a deny has no
	// obligations. Each is a JSON object in encoding/json's own form, so that a digest over them means something.
	Obligations, Advice []json.RawMessage
	// Fault is the cause of policy_error and its like. It may quote the input, so it is neither logged nor given to a caller.
	Fault error
}

// Explanation is a Decision with how the bundle came to it.
type Explanation struct {
	Decision
	Steps     []Step // in the order of evaluation, each once
	Truncated bool   // there were more
}

// Outcome is what became of a Step.
type Outcome string

// The outcomes.
const (
	Tried  Outcome = "tried"  // a rule whose body was evaluated; steps below it say how far
	Held   Outcome = "held"   // a rule whose body was true
	Failed Outcome = "failed" // an expression that was false or undefined
)

// Step is one thing that a bundle did: rules and the expressions in them that failed. It names places in the policy and no
// values: those are a user's.
type Step struct {
	Outcome Outcome
	Depth   int    // of the rules that led there
	Rule    string // as data.signet.access.task_present; the one around an expression
	File    string // in the bundle
	Line    int
	Text    string // of an expression, as written; cut at 200 bytes
}
