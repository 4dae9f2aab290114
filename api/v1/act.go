package v1

import "encoding/json"

// ActRequest is what custodians agreed to: the file that they signed, byte for byte, and what ssh-keygen -Y sign made of it.
type ActRequest struct {
	Act        []byte   `json:"act"`        // base64
	Signatures []string `json:"signatures"` // armored
}

// ActDone is an act that was logged and carried out.
type ActDone struct {
	Kind         string            `json:"kind"`
	Agreed       []string          `json:"agreed"`           // custodians
	Result       map[string]string `json:"result,omitempty"` // by kind
	AuditReceipt *AuditReceipt     `json:"audit_receipt"`
}

// Custodians are who must agree to an act.
type Custodians struct {
	ID  string          `json:"id"`  // what acts name them by: SHA-256, hex
	Set json.RawMessage `json:"set"` // docs/formats/act.md
}
