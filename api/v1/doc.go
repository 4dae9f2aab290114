// Package v1 holds the JSON of Signet's API: what each endpoint takes and gives. The server and the client share it, and the
// OpenAPI document at /openapi.json is made from it.
//
// Names are snake_case, in the words of OAuth and SPIFFE. Times are RFC 3339 in UTC. Hashes are lower-case hex, certificates
// and requests PEM, other bytes standard base64; a signed delegation is a compact JWS. Ids are lower-case UUIDv7.
//
// The package holds no logic: it neither checks nor sends anything. Its values are plain data, safe for concurrent reads.
package v1

// ProblemType is the media type of a Problem (RFC 9457 §3).
const ProblemType = "application/problem+json"

// Problem is every refusal outside /access/* (RFC 9457). Code is stable and for programs; Title and Detail are for people.
type Problem struct {
	Type    string           `json:"type"`
	Title   string           `json:"title"`
	Status  int              `json:"status"`
	Detail  string           `json:"detail,omitempty"`
	Code    string           `json:"code"`
	Field   string           `json:"field,omitempty"`    // the path of the refused member, such as scope[3]
	Checks  map[string]Check `json:"checks,omitempty"`   // of a refused certificate chain
	AuditID *uint64          `json:"audit_id,omitempty"` // index of the entry that records the refusal
	// Quota and RetryAfter are of code rate_limited: task, user, orchestrator or service, and the seconds to wait.
	Quota      string `json:"quota,omitempty"`
	RetryAfter int    `json:"retry_after,omitempty"`
}

// Check is the result of one check of a certificate chain.
type Check struct {
	Status   string `json:"status"` // pass, fail, not_evaluated
	Code     string `json:"code,omitempty"`
	Detail   string `json:"detail,omitempty"`
	Required bool   `json:"required"`
}

// AuditReceipt names the log's entry about what was done. The proof is at ReceiptURL, complete once the log is sealed.
type AuditReceipt struct {
	Index      uint64 `json:"index"`
	LeafHash   string `json:"leaf_hash"`   // RFC 6962 leaf hash
	ReceiptURL string `json:"receipt_url"` // ask with ?wait=sealed to wait for the seal

	// With wait=sealed alone. False: it is durable, and not sealed yet.
	Sealed *bool   `json:"sealed,omitempty"`
	Seal   *uint64 `json:"seal,omitempty"` // number of a seal that covers it
}

// User is a person as an identity provider knows it.
type User struct {
	Issuer  string `json:"issuer"`
	Subject string `json:"subject"`
}
