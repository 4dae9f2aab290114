package delegation

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/signet-pki/signet/audit/record"
)

// The keys of the projection. Each is written in the transaction of the entry that causes it.
const (
	keyIdentity     = "id/"     // id/<kind>/<name>: a registered orchestrator, service or operator
	keyJoin         = "join/"   // join/<SHA-256 of the token>
	keyProof        = "proof/"  // proof/<kind>/<…>: what an attestation used: a token, a pod, a challenge
	keyLine         = "line/"   // line/<TBS hash>: the attestation and the renewals behind a named identity's certificate
	keyGrant        = "grant/"  // grant/<id>
	keyTask         = "task/"   // task/<id>
	keyAgent        = "agent/"  // agent/<id>
	keySPKI         = "spki/"   // spki/<SHA-256>: an agent key is used once
	keySlot         = "slot/"   // slot/<task>/<number>: an agent of a task takes one of a bounded number
	keyLink         = "link/"   // link/<agent>/<number>: a re-key
	keyAlarm        = "alarm/"  // alarm/<agent>: it is raised once
	keyIdem         = "idem/"   // idem/<caller>/<SHA-256 of the caller's key>
	keyOpen         = "open/"   // open/<TBS hash>: appended, signature not known to be kept
	keyCert         = "cert/"   // cert/<TBS hash>: the released certificate, and the position of its issue entry
	keySpent        = "spent/"  // spent/<SHA-256>: a user's token that made a grant
	keyCredential   = "cred/"   // cred/<SHA-256 of the id>: a user's authenticator
	keyCredentialOf = "credof/" // credof/<pseudonym>/<SHA-256 of the id>
	keyEvent        = "event/"  // event/<SHA-256>: an identity provider's event that was received
	keyEnded        = "ended/"  // ended/<pseudonym>: when the user's identity provider last ended their sessions
	keyRevoked      = "rev/"    // rev/<kind>/<id>
	keyFeed         = "feed/head"
	keySerial       = "serial/"  // serial/<serial>: whose the certificate is, and until when it is valid, or one renewed over it
	keyHeld         = "held/"    // held/<orchestrator>/<serial>: certificates that it holds
	keyRenewed      = "renewed/" // renewed/<serial of the first>/<serial>: what goes back to one certificate by renewals
	keyGiven        = "given/"   // given/<pseudonym>/<grant id>: the grants that a user gave

	keyPolicyActive = "policy/active"     // the bundle that decides; absent: the default one
	keyCandidate    = "policy/candidate/" // policy/candidate/<name>: a bundle that waits for approvals
	keyPolicyWas    = "policy/was/"       // policy/was/<digest>: is or was active
	keyPolicyStored = "policy/stored/"    // policy/stored/<digest>: how many parts its archive has
	keyPolicyPart   = "policy/part/"      // policy/part/<digest>/<number>
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
	// Registration changes when an operator replaces the registration.
	Registration string   `json:"registration,omitempty"`
	Methods      []string `json:"methods,omitempty"` // of attestation; none by default
	OIDCIssuer   string   `json:"oidc_issuer,omitempty"`
	OIDCSubject  string   `json:"oidc_subject,omitempty"`
	EKs          []string `json:"tpm_eks,omitempty"` // SHA-256 of their SPKI, hex
	// Attestation is how an orchestrator proved itself last.
	Attestation string `json:"attestation,omitempty"`
	// TypeLimits narrow MaxTTL and the depth for one agent type.
	TypeLimits map[string]TypeLimit `json:"type_limits,omitempty"`
	// RequireConfirmation refuses its spawns without its signature.
	RequireConfirmation bool `json:"require_confirmation,omitempty"`
}

// joinState is a join token that was handed out; Used is set by its redemption.
type joinState struct {
	Name         string    `json:"name"`
	Registration string    `json:"registration,omitempty"`
	Expires      time.Time `json:"expires"`
	Used         bool      `json:"used"`
	// SPKI and TBS are what a redemption made: a retry with the same key is signed again.
	SPKI []byte `json:"spki,omitempty"`
	TBS  []byte `json:"tbs,omitempty"`
}

// attests says whether a method may be used.
func (st *identityState) attests(method string) bool { return slices.Contains(st.Methods, method) }

// keyState says which key a token or a pod serves, and by which certificate.
type keyState struct {
	SPKI     string    `json:"spki"` // SHA-256, hex
	Serial   string    `json:"serial"`
	NotAfter time.Time `json:"not_after"`
}

// lineState is what a certificate stands on: the attestation, or for services and operators the registration, that it was
// issued after, and the certificates that it was renewed over.
type lineState struct {
	Registration string    `json:"registration,omitempty"`
	Method       string    `json:"method,omitempty"`
	At           time.Time `json:"at"`
	Serials      []string  `json:"serials,omitempty"` // renewed, oldest first
	Pod          string    `json:"pod,omitempty"`     // state key of the pod that it is bound to
	Device       bool      `json:"device,omitempty"`  // a TPM holds the key
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
	Registration string      `json:"registration,omitempty"`
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
	Registration string    `json:"registration,omitempty"`
}

// agentState is what a retry and a sub-agent need of an agent. TBS is its first certificate, and absent while its token is
// not redeemed; the delegation is read out of it.
type agentState struct {
	SPIFFEID    string    `json:"spiffe_id"`
	TaskID      string    `json:"task_id"`
	Request     []byte    `json:"request"` // SHA-256 of what was asked and by whom
	TBS         []byte    `json:"tbs,omitempty"`
	NotAfter    time.Time `json:"not_after"`
	Limit       time.Time `json:"limit"`       // no re-key reaches further
	Delegations []string  `json:"delegations"` // compact JWS by hop
	// DelegatorKey is the SPKI that the last of Delegations verifies with.
	DelegatorKey []byte        `json:"delegator_key"`
	Enrol        *enrolState   `json:"enrol,omitempty"`
	Renewed      *renewedState `json:"renewed,omitempty"`
}

// enrolState is an enrolment token, and what its redemption needs of the spawn.
type enrolState struct {
	Token    []byte    `json:"token"` // SHA-256; the token itself is kept nowhere
	Expires  time.Time `json:"expires"`
	Key      []byte    `json:"key,omitempty"` // SHA-256 of the SPKI that redeemed it
	Chosen   bool      `json:"chosen"`        // by the caller, who alone knows it
	Parent   []byte    `json:"parent"`        // the delegator's chain; absent where that is the orchestrator
	Scope    []string  `json:"scope"`
	MaxDepth int       `json:"max_depth"`
}

// renewedState is the newest certificate of an agent that changed its key.
type renewedState struct {
	TBS      []byte    `json:"tbs"`
	NotAfter time.Time `json:"not_after"`
	Key      []byte    `json:"key"`      // SHA-256 of its SPKI
	Previous []byte    `json:"previous"` // of the key that signed for it
	Count    int       `json:"count"`
	Link     string    `json:"link"`
}

// linkState is one re-key.
type linkState struct {
	JWS string `json:"jws"`
	Key []byte `json:"key"` // SPKI that it verifies with
	To  []byte `json:"to"`  // SHA-256 of the SPKI that it leads to
}

// endedState is when an identity provider's event last ended a user's sessions.
type endedState struct {
	Time  time.Time `json:"time"`
	Event []byte    `json:"event"` // its id: no two are the same
}

// idemState is the outcome that a retry gets.
type idemState struct {
	Hash []byte `json:"hash"`
	Ref  string `json:"ref"`
}

// revokedState is one revocation.
type revokedState struct {
	Seq     uint64    `json:"seq"`
	Reason  string    `json:"reason"`
	Time    time.Time `json:"time"`
	Expires time.Time `json:"expires,omitzero"`
}

// serialState is what is known of a certificate by its serial.
type serialState struct {
	Kind string    `json:"kind"`
	End  time.Time `json:"end"` // of the certificate, or of one that was renewed over it
	// First is the serial of the certificate that its renewals began with, "" if it was not renewed over any.
	First string `json:"first,omitempty"`
}

// renewedOverState is a certificate that was renewed over another.
type renewedOverState struct {
	Over     string    `json:"over"` // serial
	NotAfter time.Time `json:"not_after"`
}

// feedState stands apart from the revocations, which are dropped in their time: no number is ever used twice.
type feedState struct {
	Epoch uint64 `json:"epoch"`
	Seq   uint64 `json:"seq"` // no revocation has a higher one
}

// load reads a key into a T; ok is false when there is none.
func load[T any](log Log, key string) (v *T, ok bool, err error) {
	b, ok, err := log.Get(key)
	if err != nil || !ok {
		return nil, false, err
	}
	v, err = read[T](key, b)
	return v, err == nil, err
}

// read decodes the value of a key.
func read[T any](key string, value []byte) (*T, error) {
	v := new(T)
	if err := json.Unmarshal(value, v); err != nil {
		return nil, fmt.Errorf("delegation: state %q: %w", key, err)
	}
	return v, nil
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
