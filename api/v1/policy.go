package v1

import "time"

// MediaBundle is the media type of PUT /v1/policy/bundles/{name}.
const MediaBundle = "application/gzip"

// PolicyBundle is a policy bundle: the active one, or a candidate.
type PolicyBundle struct {
	Name     string `json:"name"`
	Digest   string `json:"digest"`           // hex SHA-256 of the canonical archive, its signature included
	Revision uint64 `json:"revision"`         // 0: the default bundle
	Status   string `json:"status"`           // active, candidate
	KeyID    string `json:"key_id,omitempty"` // of the key that signed it
	KeyHash  string `json:"key_hash,omitempty"`
	Size     int    `json:"size"`         // bytes of the archive
	By       string `json:"by,omitempty"` // who uploaded it; absent where it was pulled
	// Since is when it was uploaded, or became active; absent for the default bundle.
	Since        time.Time        `json:"since,omitzero"`
	Approvals    []PolicyApproval `json:"approvals"`
	Tests        []PolicyTest     `json:"tests,omitempty"` // where they were run just now
	AuditReceipt *AuditReceipt    `json:"audit_receipt,omitempty"`
}

// PolicyApproval is one person's approval of a bundle's digest.
type PolicyApproval struct {
	Operator string    `json:"operator"`
	Time     time.Time `json:"time"`
	Expires  time.Time `json:"expires,omitzero"` // candidates: until when another's must follow
}

// PolicyTest is the outcome of one of a bundle's own tests.
type PolicyTest struct {
	Name   string `json:"name"`
	Passed bool   `json:"passed"`
	Detail string `json:"detail,omitempty"`
}

// PolicyBundles lists the active bundle, first, and the candidates.
type PolicyBundles struct {
	Bundles []PolicyBundle `json:"bundles"`
}

// PolicyApprovalRequest approves exactly one digest.
type PolicyApprovalRequest struct {
	Digest string `json:"digest"`
}

// PolicyTestReport is what a candidate's own tests say.
type PolicyTestReport struct {
	Digest string       `json:"digest"`
	Passed bool         `json:"passed"`
	Tests  []PolicyTest `json:"tests"`
}

// What PolicyBundle's status can be.
const (
	BundleActive    = "active"
	BundleCandidate = "candidate"
)
