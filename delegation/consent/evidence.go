package consent

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
)

const evidenceVersion = 1

// Evidence is what a consent rests on: the canonical grant, the ID token whose nonce is its hash, and the one key that
// verified the token, as the provider served it. An auditor checks it without the appliance and without the provider.
type Evidence struct {
	Version     int    `json:"v"`
	ConsentType string `json:"consent_type"` // oidc_nonce
	Grant       string `json:"grant"`        // base64url of the canonical grant document
	IDToken     string `json:"id_token"`     // compact JWS
	JWKS        JWKS   `json:"jwks"`
}

// JWKS is a JSON Web Key Set (RFC 7517 §5).
type JWKS struct {
	Keys []json.RawMessage `json:"keys"`
}

func newEvidence(document []byte, id *identity) ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	err := e.Encode(Evidence{
		Version: evidenceVersion, ConsentType: consentType,
		Grant: base64.RawURLEncoding.EncodeToString(document), IDToken: id.raw,
		JWKS: JWKS{Keys: []json.RawMessage{id.key}},
	})
	if err != nil {
		return nil, fmt.Errorf("consent: encode evidence: %w", err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}
