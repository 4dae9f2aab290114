package delegation

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/signet-pki/signet/audit/record"
)

// The keys of the projection. Each is written in the transaction of the entry that causes it.
const (
	keyIdentity = "id/"    // id/<kind>/<name>: a registered orchestrator, service or operator
	keyJoin     = "join/"  // join/<SHA-256 of the token>
	keyGrant    = "grant/" // grant/<id>
	keyTask     = "task/"  // task/<id>
	keyAgent    = "agent/" // agent/<id>
	keySPKI     = "spki/"  // spki/<SHA-256>: an agent key is used once
	keyIdem     = "idem/"  // idem/<caller>/<SHA-256 of the caller's key>
	keyOpen     = "open/"  // open/<TBS hash>: appended, signature not known to be kept
	keyCert     = "cert/"  // cert/<TBS hash>: the released certificate, DER
	keyAt       = "at/"    // at/<TBS hash>: the position of the issue entry, known once it is durable
	keyRevoked  = "rev/"   // rev/<kind>/<id>
)

// grace keeps short-lived state a little longer than anything that can name it.
const grace = time.Hour

// identityState is a registered workload or person.
type identityState struct {
	SPIFFEID   string   `json:"spiffe_id"`
	AgentTypes []string `json:"agent_types,omitempty"`
	MaxTTL     int64    `json:"max_ttl_seconds,omitempty"`
	PopRoots   []byte   `json:"pop_roots,omitempty"`
	Role       Role     `json:"role,omitempty"`
	// Attestation is how an orchestrator proved itself last.
	Attestation string `json:"attestation,omitempty"`
}

// joinState is a join token that was handed out; Used is set by its redemption.
type joinState struct {
	Name    string    `json:"name"`
	Expires time.Time `json:"expires"`
	Used    bool      `json:"used"`
	// SPKI and TBS are what a redemption made: a retry with the same key is signed again.
	SPKI []byte `json:"spki,omitempty"`
	TBS  []byte `json:"tbs,omitempty"`
}

// grantState is a grant, pending until its user consents.
type grantState struct {
	ID           string      `json:"id"`
	TaskID       string      `json:"task_id"`
	Status       GrantStatus `json:"status"`
	Purpose      string      `json:"purpose"`
	Scope        []string    `json:"scope"`
	NotAfter     time.Time   `json:"not_after"`
	MaxDepth     int         `json:"max_depth"`
	AgentTypes   []string    `json:"agent_types"`
	Orchestrator string      `json:"orchestrator"`
	OrchKey      []byte      `json:"orchestrator_key"` // SHA-256 of its SPKI when it asked
	Random       []byte      `json:"random"`
	PendingUntil time.Time   `json:"pending_until"`

	User         User      `json:"user,omitzero"`
	Consent      string    `json:"consent,omitempty"`
	Hash         []byte    `json:"hash,omitempty"`
	EvidenceHash []byte    `json:"evidence_hash,omitempty"`
	Document     []byte    `json:"document,omitempty"`
	Position     *Position `json:"-"`
}

// taskState is an open task. Its end is a revocation, so the state itself never changes.
type taskState struct {
	ID           string    `json:"id"`
	GrantID      string    `json:"grant_id"`
	Scope        []string  `json:"scope"`
	NotAfter     time.Time `json:"not_after"`
	MaxDepth     int       `json:"max_depth"`
	Orchestrator string    `json:"orchestrator"`
}

// agentState is what a retry and a sub-agent need of an issued agent.
type agentState struct {
	SPIFFEID    string    `json:"spiffe_id"`
	TaskID      string    `json:"task_id"`
	Request     []byte    `json:"request"` // SHA-256 of what was asked and by whom
	TBS         []byte    `json:"tbs"`
	Delegation  []byte    `json:"delegation"` // the extension's value
	NotAfter    time.Time `json:"not_after"`
	Delegations []string  `json:"delegations"` // compact JWS by hop
	// DelegatorKey is the SPKI that the last of Delegations verifies with.
	DelegatorKey []byte `json:"delegator_key"`
}

// idemState is the outcome that a retry gets.
type idemState struct {
	Hash []byte `json:"hash"`
	Ref  string `json:"ref"`
}

// revokedState is one revocation.
type revokedState struct {
	Seq    uint64    `json:"seq"`
	Reason string    `json:"reason"`
	Time   time.Time `json:"time"`
	Index  uint64    `json:"index"`
}

// load reads a key into a T; ok is false when there is none.
func load[T any](log Log, key string) (v *T, ok bool, err error) {
	b, ok, err := log.Get(key)
	if err != nil || !ok {
		return nil, false, err
	}
	v = new(T)
	if err := json.Unmarshal(b, v); err != nil {
		return nil, false, fmt.Errorf("delegation: state %q: %w", key, err)
	}
	return v, true, nil
}

// encode is for state of our own types, whose marshalling cannot fail.
func encode(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, internal("encode state", err)
	}
	return b, nil
}

// must is a check that changes nothing: the entry is rejected with err unless op holds for key at commit.
func must(op record.Op, key string, err error) record.Mutation {
	return record.Mutation{Key: key, CheckOnly: true, Pre: record.Precondition{Op: op, Err: err}}
}

// create writes a key that must not exist yet.
func create(key string, value []byte, expires time.Time, err error) record.Mutation {
	return record.Mutation{Key: key, Value: value, Expires: expires, Pre: record.Precondition{Op: record.Absent, Err: err}}
}

// replace writes a key whose value must still be old.
func replace(key string, old, value []byte, expires time.Time, err error) record.Mutation {
	return record.Mutation{Key: key, Value: value, Expires: expires, Pre: record.Precondition{Op: record.Equal, Value: old, Err: err}}
}
