package v1

import (
	"encoding/json"
	"time"
)

// Entry is one entry of the log.
type Entry struct {
	Index    uint64          `json:"index"`
	Entry    []byte          `json:"entry"`             // the exact bytes that the leaf hash covers
	Envelope json.RawMessage `json:"envelope"`          // the same, to read
	Payload  []byte          `json:"payload,omitempty"` // exact bytes; absent in lists, and when there is none or it was erased
	Salt     []byte          `json:"salt,omitempty"`
}

// EntryPage lists entries, oldest first.
type EntryPage struct {
	Entries    []Entry `json:"entries"`
	NextCursor string  `json:"next_cursor,omitempty"` // absent at the end
}

// ErasureRequest names payloads to destroy for good: those about a user, or listed ones.
type ErasureRequest struct {
	User    *User    `json:"user,omitempty"`
	Entries []uint64 `json:"entries,omitempty"` // ascending, at most 512
	Reason  string   `json:"reason"`            // 1 to 256 bytes; recorded for good, so it must name nobody
	DryRun  bool     `json:"dry_run,omitempty"` // only tell how many
}

// Erasure is what was destroyed.
type Erasure struct {
	Entries    uint64         `json:"entries"`    // how many lost their payloads, or would
	Redactions []AuditReceipt `json:"redactions"` // the entries that say so; none of a dry run
}

// ExportRequest asks for the evidence about one user, task or agent: exactly one of these is named.
type ExportRequest struct {
	Task      string `json:"task,omitempty"`
	Agent     string `json:"agent,omitempty"` // with all agents below it
	User      *User  `json:"user,omitempty"`
	Pseudonym string `json:"pseudonym,omitempty"` // a user, as entries name them
}

// PruneRequest says which entries to archive and prune: the oldest from before a time, in whole bundles of 256.
type PruneRequest struct {
	Before time.Time `json:"before"`
	Reason string    `json:"reason"`            // 1 to 256 bytes; recorded for good, so it must name nobody
	DryRun bool      `json:"dry_run,omitempty"` // only tell which
}

// Prune is what was pruned, or would be. A prune is bounded: what is left goes by the next one.
type Prune struct {
	From         uint64        `json:"from"`
	To           uint64        `json:"to"`                // the first entry that stays
	Archive      string        `json:"archive,omitempty"` // name of the archive's file
	SHA256       string        `json:"sha256,omitempty"`  // of the file
	AuditReceipt *AuditReceipt `json:"audit_receipt,omitempty"`
}

// Retention is what of the log is still here. The number is no evidence: the prune entry is.
type Retention struct {
	MinimumIndex uint64  `json:"minimum_index"`         // entries from 256 up to it are not served; 0: all are
	PruneEntry   *uint64 `json:"prune_entry,omitempty"` // the entry that says so, and where they are
}

// FoundReceipt is the receipt of one of the entries that were asked for.
type FoundReceipt struct {
	Index   uint64          `json:"index"`
	Receipt json.RawMessage `json:"receipt,omitempty"` // absent until something signed covers the entry: ask for it by index, with wait=sealed
}

// ReceiptPage lists receipts, oldest entry first. It may be empty and yet not the last.
type ReceiptPage struct {
	Receipts   []FoundReceipt `json:"receipts"`
	NextCursor string         `json:"next_cursor,omitempty"` // absent at the end
}

// InclusionProof leads from an entry's leaf hash to the root of the tree of that size, which a checkpoint has to tell.
type InclusionProof struct {
	Index  uint64   `json:"index"`
	Size   uint64   `json:"size"`
	Hashes [][]byte `json:"hashes"` // from the leaf's sibling on (RFC 6962 §2.1.1)
}

// ConsistencyProof leads from the root of one tree to that of a later one: nothing of the first was changed.
type ConsistencyProof struct {
	From   uint64   `json:"from"`
	To     uint64   `json:"to"`
	Hashes [][]byte `json:"hashes"` // RFC 6962 §2.1.2; empty from 0 and between equals
}

// Seal is a sealed checkpoint with the TPM's statements over it.
type Seal struct {
	Number           uint64 `json:"number"`
	Text             string `json:"text"`       // exact
	Checkpoint       string `json:"checkpoint"` // C2SP signed note
	Quote            []byte `json:"quote"`      // TPMS_ATTEST
	QuoteSignature   []byte `json:"quote_signature"`
	PCRs             []byte `json:"pcrs"`
	Counter          []byte `json:"counter"` // TPMS_ATTEST of the NV counter
	CounterSignature []byte `json:"counter_signature"`
}

// Bundle is a SPIFFE bundle (SPIFFE Trust Domain and Bundle §4): the roots of the trust domain as a JWK set.
type Bundle struct {
	Keys        []Key  `json:"keys"`
	Sequence    uint64 `json:"spiffe_sequence"`
	RefreshHint int64  `json:"spiffe_refresh_hint"` // seconds
}

// KeySet is the keys that statements for relying services are signed with, as a JWK set (RFC 7517 §5).
type KeySet struct {
	Keys []Key `json:"keys"`
}

// Key is one root, or one key of a KeySet.
type Key struct {
	Use string   `json:"use"`           // x509-svid for a root, sig for a KeySet's
	Kid string   `json:"kid,omitempty"` // of a KeySet's: the RFC 7638 thumbprint
	Alg string   `json:"alg,omitempty"` // likewise
	Kty string   `json:"kty"`
	Crv string   `json:"crv,omitempty"`
	X   string   `json:"x,omitempty"`
	Y   string   `json:"y,omitempty"`
	N   string   `json:"n,omitempty"`
	E   string   `json:"e,omitempty"`
	X5C []string `json:"x5c"` // standard base64 of the DER: the root, or the chain up to and without it
}

// Live says that the process answers.
type Live struct {
	Status string `json:"status"` // alive
}

// Ready says whether the appliance can do its work.
type Ready struct {
	Status     string      `json:"status"`               // ready, not_ready
	Conditions []Condition `json:"conditions,omitempty"` // for staff
}

// Condition is one thing that readiness depends on.
type Condition struct {
	Name     string `json:"name"`
	OK       bool   `json:"ok"`
	Severity string `json:"severity"` // error: not ready without it; warning: shown
	Reason   string `json:"reason,omitempty"`
}
