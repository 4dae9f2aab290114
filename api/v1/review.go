package v1

import (
	"encoding/json"
	"time"
)

// ExplainRequest asks how policy comes to an answer: about a recorded decision, about an entry at which policy was asked, or
// about an input. Exactly one of the three.
type ExplainRequest struct {
	DecisionID string          `json:"decision_id,omitempty"`
	Index      *uint64         `json:"index,omitempty"`
	Input      json.RawMessage `json:"input,omitempty"`  // a document as in policy-input.md
	Bundle     string          `json:"bundle,omitempty"` // recorded: the one that answered then; or a digest, hex; the active one by default
}

// BundleRef names a bundle.
type BundleRef struct {
	Digest   string `json:"digest"`
	Revision string `json:"revision,omitempty"`
}

// PolicyAnswer is what policy says.
type PolicyAnswer struct {
	Allow           bool     `json:"allow"`
	Reasons         []string `json:"reasons,omitempty"`
	ObligationsHash string   `json:"obligations_hash,omitempty"` // as in entries
}

// Explanation is what policy answers now, and how it comes to it.
type Explanation struct {
	Allow       bool              `json:"allow"`
	Reasons     []string          `json:"reasons,omitempty"`
	Obligations []json.RawMessage `json:"obligations,omitempty"`
	Advice      []json.RawMessage `json:"advice,omitempty"`
	Bundle      BundleRef         `json:"bundle"`
	Recorded    *RecordedAnswer   `json:"recorded,omitempty"` // where an entry was asked about
	Steps       []ExplainStep     `json:"steps"`
	Truncated   bool              `json:"truncated,omitempty"` // there were more steps
	AuditID     uint64            `json:"audit_id"`            // the entry that says who asked
}

// RecordedAnswer is what policy answered then.
type RecordedAnswer struct {
	Index      uint64       `json:"index"`
	DecisionID string       `json:"decision_id,omitempty"`
	Point      string       `json:"point"`
	Time       time.Time    `json:"time"`
	Digest     string       `json:"digest"` // of the bundle
	Answer     PolicyAnswer `json:"answer"`
}

// ExplainStep is a rule that was tried or held, or an expression that failed. It names places in the bundle and no values
// of the input.
type ExplainStep struct {
	Outcome string `json:"outcome"` // tried, held, failed
	Depth   int    `json:"depth"`
	Rule    string `json:"rule"`
	File    string `json:"file"`
	Line    int    `json:"line"`
	Text    string `json:"text,omitempty"`
}

// ReplayRequest says which recorded questions to put to a bundle again. By default it is all of the log, and the candidate of
// that name.
type ReplayRequest struct {
	Digest string    `json:"digest,omitempty"` // of the bundle, hex
	From   uint64    `json:"from,omitempty"`   // index of the first entry
	To     uint64    `json:"to,omitempty"`     // index behind the last entry
	Since  time.Time `json:"since,omitzero"`
	Until  time.Time `json:"until,omitzero"`
}

// ReplayLine is a line of a replay: a change, or at the end the totals. Without totals the answer broke off.
type ReplayLine struct {
	Change *ReplayChange `json:"change,omitempty"`
	Totals *ReplayTotals `json:"totals,omitempty"`
}

// ReplayChange is a question that the bundle answers otherwise.
type ReplayChange struct {
	Index      uint64       `json:"index"`
	DecisionID string       `json:"decision_id,omitempty"`
	Point      string       `json:"point"`
	Time       time.Time    `json:"time"`
	Before     PolicyAnswer `json:"before"`
	After      PolicyAnswer `json:"after"`
}

// ReplayTotals say what was done.
type ReplayTotals struct {
	Bundle   BundleRef     `json:"bundle"`
	Replayed uint64        `json:"replayed"`
	Changed  uint64        `json:"changed"`
	Skipped  ReplaySkipped `json:"skipped"`
	Next     *uint64       `json:"next,omitempty"` // the time was up: ask for the rest with this as from
	AuditID  uint64        `json:"audit_id"`       // the entry that says who asked
}

// ReplaySkipped counts questions whose answers cannot be compared.
type ReplaySkipped struct {
	NotAsked   uint64 `json:"not_asked"`  // the checks before policy denied
	Erased     uint64 `json:"erased"`     // what policy was asked is erased
	Overruled  uint64 `json:"overruled"`  // policy allowed, and a revocation in the same moment denied
	Busy       uint64 `json:"busy"`       // policy had no place to evaluate
	Pruned     uint64 `json:"pruned"`     // the entries are not in the log any more
	Unreadable uint64 `json:"unreadable"` // the recorded input is not the one that the entry has the digest of
}
