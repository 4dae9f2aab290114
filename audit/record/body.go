package record

import (
	"encoding/json"
	"time"
)

// Ceremony is the body of leaf 0: the anchors that the log began with. Certificates and keys are base64 DER, TPM
// structures base64 of their marshalled bytes, names and digests lower-case hex.
type Ceremony struct {
	Origin        string   `json:"origin"`
	Previous      string   `json:"previous,omitempty"` // origin of the log that this one succeeds after a restore
	TrustDomain   string   `json:"trust_domain"`
	Root          string   `json:"root"`
	AuditKey      string   `json:"audit_key"`         // SPKI
	JWTKey        string   `json:"jwt_key,omitempty"` // SPKI; absent in logs that began before there was one
	AKPublic      string   `json:"ak_public"`         // TPMT_PUBLIC
	AKName        string   `json:"ak_name"`
	NVPublic      string   `json:"nv_public"` // TPMS_NV_PUBLIC
	NVName        string   `json:"nv_name"`
	NVIndex       uint32   `json:"nv_index"`
	EKCertificate string   `json:"ek_certificate,omitempty"`
	PCRs          string   `json:"pcrs"` // selection, like sha256:0,1,2
	AgentCAs      []string `json:"agent_cas"`
	ServiceCAs    []string `json:"service_cas"`
	PolicyDigest  string   `json:"policy_digest"`

	// Custodians is their set as package custody writes it; absent where nobody can agree to an act.
	Custodians json.RawMessage `json:"custodians,omitempty"`

	// Restored says from what a log with a Previous was restored.
	Restored *Restored `json:"restored,omitempty"`
}

// Restored is the end of the log that was restored, as the backup had it. What that log had beyond it is lost to the appliance, and
// not to whoever saw it.
type Restored struct {
	Backup     string `json:"backup"` // SHA-256 of the file, hex
	Size       uint64 `json:"size"`
	Root       string `json:"root_hash"`      // hex
	Checkpoint []byte `json:"checkpoint"`     // the former log's, signed over exactly that
	Seal       uint64 `json:"seal,omitempty"` // its last one in the backup
	SealDigest string `json:"seal_digest,omitempty"`
	// Sealed is where that seal says that the TPM was, and Found where it was when the backup was restored: between two resets the
	// counter moves once for each seal.
	Sealed *AnchorBody `json:"sealed,omitempty"`
	Found  AnchorBody  `json:"found"`
}

// GrantBody tells what a user consented to. The user is the pseudonym in the envelope.
type GrantBody struct {
	GrantID         string    `json:"grant_id"`
	TaskID          string    `json:"task_id"`
	Status          string    `json:"status"`
	ConsentType     string    `json:"consent_type"`
	EvidenceHash    string    `json:"evidence_hash"`
	GrantHash       string    `json:"grant_hash"`
	Scope           []string  `json:"scope"`
	NotAfter        time.Time `json:"not_after"`
	MaxDepth        int       `json:"max_depth"`
	AgentTypes      []string  `json:"agent_types"`
	OrchestratorID  string    `json:"orchestrator_id"`
	OrchestratorKey string    `json:"orchestrator_key"` // SHA-256 of its SPKI
}

// GrantPayload is the user behind a grant, as the identity provider told it at consent.
type GrantPayload struct {
	Issuer   string    `json:"issuer"`
	Subject  string    `json:"subject"`
	Roles    []string  `json:"roles,omitempty"`
	Groups   []string  `json:"groups,omitempty"`
	ACR      string    `json:"acr,omitempty"`
	AMR      []string  `json:"amr,omitempty"`
	AuthTime time.Time `json:"auth_time,omitzero"`
	Purpose  string    `json:"purpose,omitempty"`
	Evidence []byte    `json:"evidence,omitempty"`
}

// TaskBody opens a task.
type TaskBody struct {
	TaskID   string    `json:"task_id"`
	GrantID  string    `json:"grant_id"`
	Status   string    `json:"status"` // open, completed
	Scope    []string  `json:"scope,omitempty"`
	NotAfter time.Time `json:"not_after,omitzero"`
	MaxDepth int       `json:"max_depth,omitempty"`
}

// HopBody is one link of the chain in an issued certificate.
type HopBody struct {
	ID           string    `json:"id"`
	SPKIHash     string    `json:"spki_hash"`
	Scope        []string  `json:"scope"`
	NotAfter     time.Time `json:"not_after"`
	MaxDepth     int       `json:"max_depth"`
	Confirmation string    `json:"confirmation,omitempty"` // SHA-256 of the delegator's compact JWS
}

// IssueBody records a certificate before it is signed. TBSHash identifies it everywhere.
type IssueBody struct {
	Kind           string    `json:"kind"` // agent orchestrator service operator listener
	SPIFFEID       string    `json:"spiffe_id"`
	Serial         string    `json:"serial"`
	TBSHash        string    `json:"tbs_hash"`
	SPKIHash       string    `json:"spki_hash"`
	IssuerSPKIHash string    `json:"issuer_spki_hash"`
	NotBefore      time.Time `json:"not_before"`
	NotAfter       time.Time `json:"not_after"`
	SpawnID        string    `json:"spawn_id,omitempty"`
	Hops           []HopBody `json:"hops,omitempty"`
	ConsentType    string    `json:"consent_type,omitempty"`
	EvidenceHash   string    `json:"evidence_hash,omitempty"`
	Role           string    `json:"role,omitempty"`        // operators
	Attestation    string    `json:"attestation,omitempty"` // orchestrators: how they proved themselves
	// EnrollmentHash is SHA-256 of the token that this key redeemed: what cnf.enrol names.
	EnrollmentHash string     `json:"enrollment_hash,omitempty"`
	Rekey          *RekeyBody `json:"rekey,omitempty"`
	// Registration tells registrations of one name apart, Attested is when the orchestrator proved itself (the others: when
	// they were registered), Renews the serial of the certificate that this one was issued over.
	Registration string     `json:"registration,omitempty"`
	Attested     time.Time  `json:"attested,omitzero"`
	Renews       string     `json:"renews,omitempty"`
	Proof        *ProofBody `json:"proof,omitempty"`
	// InputHash is SHA-256 of the policy input in the payload, where policy was asked.
	InputHash string `json:"input_hash,omitempty"`
}

// ProofBody is what an attestation showed, by method. Hashes are lower-case hex.
type ProofBody struct {
	Certificate  string    `json:"certificate,omitempty"` // x509pop: SHA-256 of its DER
	Issuer       string    `json:"issuer,omitempty"`      // oidc_jwt: the configuration's name for it
	TokenHash    string    `json:"token_hash,omitempty"`  // oidc_jwt: SHA-256 of the signed part
	TokenExpires time.Time `json:"token_expires,omitzero"`
	Pod          string    `json:"pod,omitempty"` // oidc_jwt: UID
	Node         string    `json:"node,omitempty"`
	Challenge    string    `json:"challenge,omitempty"` // tpm_devid: SHA-256
	AKName       string    `json:"ak_name,omitempty"`   // tpm_devid: TPM name of the attestation key
	EKKey        string    `json:"ek_key,omitempty"`    // tpm_devid: SHA-256 of the endorsement key's SPKI
}

// ProofPayload is the part of a proof that can be about a person.
type ProofPayload struct {
	Issuer  string `json:"issuer"`
	Subject string `json:"subject"`
}

// RekeyBody belongs to the issue entry of an agent's next key.
type RekeyBody struct {
	PreviousSPKIHash string `json:"previous_spki_hash"` // the key that signed the link
	LinkHash         string `json:"link_hash"`          // SHA-256 of the link, compact; it stands in the payload
}

// IssuePayload belongs to an agent's IssueBody.
type IssuePayload struct {
	Delegation []byte `json:"delegation"`    // the extension's DER
	JWS        string `json:"jws,omitempty"` // the delegator's, compact
	// DelegatorKey is the SPKI that the JWS verifies with; its SHA-256 stands in the delegator's hop.
	DelegatorKey []byte   `json:"delegator_key,omitempty"`
	Link         string   `json:"link,omitempty"` // of a re-key, compact
	Issuer       string   `json:"issuer"`
	Subject      string   `json:"subject"`
	Roles        []string `json:"roles,omitempty"`
	// Input is what policy was asked; absent from entries before it was kept, and where a certificate is issued again.
	Input json.RawMessage `json:"input,omitempty"`
}

// EnrollmentBody is an agent that gets its certificate for a token. Its own hop is the last; it has no key yet.
type EnrollmentBody struct {
	SpawnID   string    `json:"spawn_id"`
	SPIFFEID  string    `json:"spiffe_id"`
	TokenHash string    `json:"token_hash"` // SHA-256
	Expires   time.Time `json:"expires"`
	Hops      []HopBody `json:"hops"`
	InputHash string    `json:"input_hash,omitempty"` // of the policy input
}

// EnrollmentPayload belongs to an EnrollmentBody.
type EnrollmentPayload struct {
	JWS          string          `json:"jws,omitempty"`           // the delegator's, compact
	DelegatorKey []byte          `json:"delegator_key,omitempty"` // the SPKI that it verifies with
	Input        json.RawMessage `json:"input,omitempty"`         // what policy was asked
}

// EventTokenReused is the event of an alarm: a redeemed token was shown again with another key, so one of the two
// who showed it is a thief. A revocation of the agent goes with it.
const EventTokenReused = "enrollment_token_reused"

// AlarmBody is something that a person should look at.
type AlarmBody struct {
	Event           string `json:"event"`
	SPKIHash        string `json:"spki_hash"`         // the key that redeemed the token
	RefusedSPKIHash string `json:"refused_spki_hash"` // the first other one
}

// FailBody belongs to issue_failed (no signature was released) and issue_unknown (a crash left that open).
type FailBody struct {
	Index   uint64 `json:"index,omitempty"` // of the issue entry; absent in issue_unknown
	Serial  string `json:"serial"`
	TBSHash string `json:"tbs_hash"`
	Detail  string `json:"detail,omitempty"`
}

// TokenBody records an access token before it is signed.
type TokenBody struct {
	JTI             string    `json:"jti"`
	Audience        string    `json:"audience"` // SPIFFE ID of the service
	Scope           []string  `json:"scope"`
	NotAfter        time.Time `json:"not_after"`
	Serial          string    `json:"serial"`               // of the agent's certificate
	CertificateHash string    `json:"certificate_hash"`     // SHA-256 of its DER, which the token is bound to
	ClaimsHash      string    `json:"claims_hash"`          // SHA-256 of the claims, byte for byte as signed
	InputHash       string    `json:"input_hash,omitempty"` // of the policy input
}

// TokenFailBody belongs to token_failed: no signature over the token was released.
type TokenFailBody struct {
	Index uint64 `json:"index"` // of the token entry
	JTI   string `json:"jti"`
}

// TokenPayload is what a token says, which names its user.
type TokenPayload struct {
	Claims json.RawMessage `json:"claims"`
	Input  json.RawMessage `json:"input,omitempty"` // what policy was asked
}

// DecisionBody is the answer to one access request.
type DecisionBody struct {
	DecisionID    string            `json:"decision_id"`
	Allow         bool              `json:"allow"`
	Reasons       []string          `json:"reasons,omitempty"`
	Checks        map[string]string `json:"checks,omitempty"`
	ResourceType  string            `json:"resource_type"`
	ResourceID    string            `json:"resource_id"`
	Action        string            `json:"action"`
	RequiredScope []string          `json:"required_scope,omitempty"`
	InputHash     string            `json:"input_hash,omitempty"` // SHA-256 of the payload's input; absent where policy was not asked
	// PolicyAllow is the policy's own answer: what was revoked in the same moment can overrule it, and a protocol that has no
	// place for its obligations.
	PolicyAllow     bool      `json:"policy_allow,omitempty"`
	ObligationsHash string    `json:"obligations_hash,omitempty"` // SHA-256 of the payload's, as they stand there
	AdviceHash      string    `json:"advice_hash,omitempty"`
	TBSHash         string    `json:"tbs_hash,omitempty"`
	Hops            []HopBody `json:"hops,omitempty"`
}

// DecisionPayload lets a decision be replayed. Obligations and Advice are arrays of objects.
type DecisionPayload struct {
	Input       json.RawMessage `json:"input,omitempty"`
	Obligations json.RawMessage `json:"obligations,omitempty"`
	Advice      json.RawMessage `json:"advice,omitempty"`
	Chain       [][]byte        `json:"chain,omitempty"` // DER, leaf first
	// What the caller said of whom it expects, which the checks were held against.
	Subject              string       `json:"subject,omitempty"`
	ExpectedUser         *UserPayload `json:"expected_user,omitempty"`
	ExpectedOrchestrator string       `json:"expected_orchestrator,omitempty"`
}

// UserPayload names a user.
type UserPayload struct {
	Issuer  string `json:"issuer"`
	Subject string `json:"subject"`
}

// DenyBody is a request that the domain refused.
type DenyBody struct {
	Operation string            `json:"operation"`
	Code      string            `json:"code"`
	Field     string            `json:"field,omitempty"`
	Detail    string            `json:"detail,omitempty"`
	Checks    map[string]string `json:"checks,omitempty"`
	Reasons   []string          `json:"reasons,omitempty"`    // the policy's
	InputHash string            `json:"input_hash,omitempty"` // of the policy input, where policy refused
}

// DenyPayload lets a policy's refusal be replayed.
type DenyPayload struct {
	Input json.RawMessage `json:"input,omitempty"`
}

// MalformedBody is a request, or a minute's worth of them, that did not get as far as the domain.
type MalformedBody struct {
	Operation string `json:"operation"`
	Field     string `json:"field,omitempty"`
	Caller    string `json:"caller,omitempty"`
	Count     uint64 `json:"count"`
}

// RevokeBody is one revocation; Seq orders the feed.
type RevokeBody struct {
	Kind   string `json:"kind"`
	ID     string `json:"id"`
	Reason string `json:"reason,omitempty"`
	Seq    uint64 `json:"seq"`
	// Expires is when nothing valid can name the thing any more; absent: the revocation stays.
	Expires time.Time `json:"expires,omitzero"`
}

// RevokePayload says whom a user's revocation is about; the envelope has the pseudonym alone.
type RevokePayload struct {
	Issuer  string `json:"issuer"`
	Subject string `json:"subject"`
}

// AdminBody is what an operator did.
type AdminBody struct {
	Action string            `json:"action"`
	Target string            `json:"target,omitempty"`
	Detail map[string]string `json:"detail,omitempty"`
}

// AdminPayload is the part of an AdminBody that can be about a person.
type AdminPayload struct {
	OIDCSubject string `json:"oidc_subject"` // registrations: whose tokens attest
}

// PolicyBody is the activation of a policy bundle: from this entry on, its digest can stand in entries.
type PolicyBody struct {
	Name     string `json:"name"`
	Digest   string `json:"digest"`
	Revision string `json:"revision"`
	Previous string `json:"previous,omitempty"` // digest; absent after the default bundle
	KeyID    string `json:"key_id,omitempty"`   // of the key that signed it, by the configuration
	KeyHash  string `json:"key_hash,omitempty"` // SHA-256 of that key's SPKI
	// Approvals are the people who approved exactly this digest; none for the default bundle.
	Approvals []PolicyApproval `json:"approvals,omitempty"`
}

// PolicyApproval is one of them.
type PolicyApproval struct {
	Operator string    `json:"operator"` // name
	Serial   string    `json:"serial"`   // of the certificate that approved
	Time     time.Time `json:"time"`
}

// Act is something that custodians agreed to, and is recorded before it is carried out. Both are the exact bytes: of the act as
// package custody reads it, and of the armored signatures.
type Act struct {
	Act        []byte   `json:"act"`
	Signatures [][]byte `json:"signatures"`
}

// AnchorBody is a state of the TPM's counter.
type AnchorBody struct {
	Reset   uint32 `json:"reset"`
	Restart uint32 `json:"restart"`
	Counter uint64 `json:"counter"`
}

// Events of a DeviceBody that the log itself writes. After each of them completeness is unproven for the interval since
// the last seal.
const (
	EventCounterGap = "counter_gap" // same boot: the counter passed a seal that was never finished
	EventTPMReset   = "tpm_reset"   // the TPM was reset since the last seal

	EventPCRsChanged       = "pcrs_changed"         // another boot than the last seal's, which measured something else
	EventPCRsChangedInBoot = "pcrs_changed_in_boot" // the last seal's boot: something extended a register
)

// DeviceBody is something that happened to a device. Expected and Found are the anchor of the last seal (or of the seal
// that was pending) and the one that the TPM showed. Where PCRs changed, Seal is the seal that was stored in the same moment,
// Found its anchor, and Expected that of the seal before it.
type DeviceBody struct {
	Event    string            `json:"event"`
	Expected *AnchorBody       `json:"expected,omitempty"`
	Found    *AnchorBody       `json:"found,omitempty"`
	Seal     uint64            `json:"seal,omitempty"` // number of the last finished seal
	Detail   map[string]string `json:"detail,omitempty"`
	PCRs     []PCRChange       `json:"pcrs,omitempty"` // by index, ascending
}

// PCRChange is a register whose value differs from that in the seal before. Values are SHA-256, hex.
type PCRChange struct {
	PCR    int    `json:"pcr"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// SealBody puts a seal into the tree: Digest is SHA-256 of its text, Size the size that it covers.
type SealBody struct {
	Number uint64 `json:"number"`
	Digest string `json:"digest"`
	Size   uint64 `json:"size"`
}
