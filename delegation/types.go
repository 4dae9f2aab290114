package delegation

import (
	"crypto/x509"
	"encoding/json"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
)

// Role is what an operator may do. The zero Role may do nothing.
type Role string

// The roles of people.
const (
	RoleNone     Role = ""
	RoleOperator Role = "operator"
	RoleOfficer  Role = "security_officer"
	RoleAuditor  Role = "auditor"
	RolePrivacy  Role = "privacy_officer"
)

// Roles lists every role that an operator can be given.
func Roles() []Role { return []Role{RoleOperator, RoleOfficer, RoleAuditor, RolePrivacy} }

// Caller is an authenticated client: the identity in a certificate that verified just now.
type Caller struct {
	ID    chain.ID
	Role  Role                // operators only
	Certs []*x509.Certificate // as presented, leaf first
	deleg *chain.Delegation   // agents only
	reg   *identityState      // all others: the registration as it stood when the request was admitted

	registration string // that the certificate is of
}

// Idempotency ties a retry to its first attempt: the caller's key, and the SHA-256 of the request's body.
// The zero value asks for none.
type Idempotency struct {
	Key  string
	Hash [32]byte
}

// Position is where an entry stands in the log.
type Position struct {
	Index    uint64
	LeafHash [32]byte
}

// Registration is a request to register a workload or a person.
type Registration struct {
	Name        string
	AgentTypes  []string             // orchestrators: the types that it may spawn; empty refuses all
	MaxTTL      time.Duration        // orchestrators: the longest life of an agent
	Methods     []string             // orchestrators: how they may attest; empty: join_token and whatever is described below
	PopRoots    []byte               // orchestrators: PEM of the CAs accepted for x509pop
	OIDCIssuer  string               // orchestrators: name of the configured issuer whose tokens are accepted for oidc_jwt
	OIDCSubject string               // orchestrators: the subject of those tokens
	EKs         []string             // orchestrators: the TPMs accepted for tpm_devid, each the hex SHA-256 of an endorsement key's SPKI
	Role        Role                 // operators
	CSR         []byte               // services and operators: PEM
	TypeLimits  map[string]TypeLimit // orchestrators: narrower limits of single agent types
	// RequireConfirmation refuses an orchestrator's spawns without its signature.
	RequireConfirmation bool
	Replace             bool // of a name that is registered: new attributes, and a new token or certificate
	Idempotency         Idempotency
}

// TypeLimit bounds the agents of one type. Zero and nil bound nothing.
type TypeLimit struct {
	MaxTTL   time.Duration `json:"max_ttl,omitempty"`
	MaxDepth *int          `json:"max_depth,omitempty"` // levels of sub-agents below one
}

// Registered answers a Registration.
type Registered struct {
	ID               chain.ID
	JoinToken        string // orchestrators that may attest with one: shown once, single use
	JoinTokenExpires time.Time
	Issued           *Issued // services and operators
	Position         Position
}

// Attestation is an orchestrator's proof of who it is.
type Attestation struct {
	Name   string
	Method string              // one of Methods, or renew
	Token  string              // join_token, oidc_jwt
	Peer   []*x509.Certificate // x509pop, renew: the chain whose key the TLS handshake proved
	CSR    []byte

	Challenge     string        // tpm_devid: its token
	Secret        []byte        // tpm_devid: what the TPM found in it
	Certification Certification // tpm_devid: of the CSR's key
}

// Issued is a certificate with its chain, leaf first, DER, without the root.
type Issued struct {
	ID       chain.ID
	Chain    [][]byte
	NotAfter time.Time
	Position Position
}

// GrantRequest is what an orchestrator asks a user to consent to.
type GrantRequest struct {
	Purpose     string
	Scope       chain.Scope
	NotAfter    time.Time
	MaxDepth    int
	AgentTypes  []string
	Idempotency Idempotency
}

// GrantStatus tells where a grant stands. The zero value grants nothing.
type GrantStatus string

// The states of a grant.
const (
	GrantPending GrantStatus = "pending"
	GrantActive  GrantStatus = "active"
	GrantRevoked GrantStatus = "revoked"
	GrantExpired GrantStatus = "expired"
)

// Grant is a grant as its orchestrator and its user see it.
type Grant struct {
	ID           string
	TaskID       string
	Status       GrantStatus
	Purpose      string
	Scope        chain.Scope
	NotAfter     time.Time
	MaxDepth     int
	AgentTypes   []string
	Orchestrator chain.ID
	Hash         [32]byte // of the canonical document; zero while pending
	Position     Position // zero while pending
}

// User is the person who consented, with the claims seen at that moment.
type User struct {
	Issuer, Subject string
	Roles, Groups   []string
	ACR             string
	AMR             []string
	AuthTime        time.Time
}

// Approval is a verified consent.
type Approval struct {
	Type       chain.ConsentType
	User       User
	Document   []byte // the canonical grant
	Evidence   []byte // exact bytes of the evidence file
	Credential []byte // webauthn: the id of the authenticator, which must still be the user's
	Once       *Once  // nil: the proof is bound to this grant by itself
	// SignedIn is when the identity provider vouched for the user; zero where it did not.
	SignedIn time.Time
}

// TaskRequest opens the task of a grant.
type TaskRequest struct {
	GrantID     string
	Scope       chain.Scope // empty: the grant's
	NotAfter    time.Time   // zero: the grant's
	Idempotency Idempotency
}

// Task is a unit of work under a grant.
type Task struct {
	ID, GrantID  string
	Status       string // open, completed, revoked, expired
	Scope        chain.Scope
	NotAfter     time.Time
	MaxDepth     int
	Orchestrator chain.ID
	Position     Position
}

// SpawnRequest asks for an agent (by its orchestrator) or a sub-agent (by its parent). Without a CSR the agent gets a
// token instead of a certificate, which it redeems with a CSR of its own.
type SpawnRequest struct {
	TaskID       string
	SpawnID      string // UUIDv7 chosen by the caller; becomes the agent's id
	AgentType    string
	Scope        chain.Scope
	TTL          time.Duration // 0: as long as allowed
	MaxDepth     int
	CSR          []byte
	Confirmation string // the delegator's compact JWS
	// EnrollmentHash is SHA-256 of a token that the caller made, so that its JWS can name it; nil: the appliance makes one.
	EnrollmentHash *[32]byte
	Idempotency    Idempotency
}

// Enrollment redeems a token.
type Enrollment struct {
	AgentID string
	Token   string
	CSR     []byte
}

// RekeyRequest gives an agent's next key a certificate.
type RekeyRequest struct {
	AgentID string
	CSR     []byte
	Link    string // compact JWS by the old key (chain.Rekey)
}

// DecisionRequest is one access request (AuthZEN evaluation).
type DecisionRequest struct {
	Chain        []*x509.Certificate // leaf first
	Known        *chain.Known        // what chain.ExamineChain found about Chain; nil: found anew
	SubjectID    string              // the SPIFFE ID that the caller names
	Principal    *chain.User         // the user that the caller expects, if it names one
	Orchestrator string              // the orchestrator that the caller expects, if it names one
	ResourceType string
	ResourceID   string
	Action       string
	// Bare says that the answer goes where obligations are not passed on: a permission that has some is a denial there.
	Bare bool
}

// Decision answers a DecisionRequest. The zero value denies.
type Decision struct {
	ID      string
	Allow   bool
	Reasons []string // why not; empty when allowed
	Checks  []chain.Check
	// Obligations go with a permission, and the service has to do what they say; Advice it may. JSON objects of the policy's.
	Obligations, Advice []json.RawMessage
	Position            *Position // nil: not recorded, hence denied
}

// VerifyRequest asks which checks a chain passes, without a decision. Its members are those of chain.Input.
type VerifyRequest struct {
	Chain         []*x509.Certificate
	RequiredScope []chain.Token
	At            time.Time   // zero: now
	Principal     *chain.User // nil: any
	Orchestrator  string      // SPIFFE ID; "": any
	Delegations   []string
	Keys          [][]byte
	Links         [][]chain.Link
	GrantDocument []byte
	MaxStaleness  time.Duration     // zero: a minute, unless At is given
	Require       []chain.CheckName // besides those that always must pass, and revocation
}

// Cursor is a place in the feed of revocations: behind the one of that number. The zero Cursor is the beginning.
type Cursor struct{ Epoch, Seq uint64 }

// RevocationPage is a piece of the feed.
type RevocationPage struct {
	Revocations []Revocation
	Next        Cursor          // behind the last of them
	Newest      uint64          // the number of the newest revocation, on this page or not
	Changed     <-chan struct{} // closed when there is more than there was
}

// Revocation is one revoked thing.
type Revocation struct {
	Seq      uint64
	Kind     chain.RevKind
	ID       string
	Reason   string
	Time     time.Time
	Expires  time.Time // nothing valid can name it from then on; zero: it stays
	Position Position
}

// RevokeRequest revokes one thing and, since every certificate names its ancestors, all below it.
type RevokeRequest struct {
	Kind        chain.RevKind
	ID          string
	Reason      string
	Idempotency Idempotency
}

// Lineage is what an agent's certificate stands on.
type Lineage struct {
	Delegation  chain.Delegation
	Delegations []string       // compact JWS by hop, "" where there is none
	Links       [][]chain.Link // re-keys by hop, oldest first
	GrantHash   [32]byte
}

// Refusal is a request that did not get as far as the domain: it could not be read or its caller not be authenticated.
type Refusal struct {
	Operation string // method and route
	Caller    string // SPIFFE ID, "" if unknown
	Code      string
	Field     string
}
