package v1

// TokenRequest asks for an access token for one service; the calling agent's certificate is what it is bound to.
type TokenRequest struct {
	Audience string   `json:"audience"`      // SPIFFE ID of a registered service
	Scope    []string `json:"scope"`         // within the agent's own
	TTL      int64    `json:"ttl,omitempty"` // seconds, at most 300 and never beyond the agent's life; 0: as long as allowed
}

// Token is an access token, with the names of RFC 6749 §5.1.
type Token struct {
	AccessToken  string        `json:"access_token"` // RFC 9068, bound by cnf (RFC 8705 §3.1)
	TokenType    string        `json:"token_type"`   // Bearer
	ExpiresIn    int64         `json:"expires_in"`   // seconds
	Scope        string        `json:"scope"`
	AuditReceipt *AuditReceipt `json:"audit_receipt,omitempty"`
}
