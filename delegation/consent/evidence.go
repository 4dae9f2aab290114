package consent

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/evidence"
)

// newEvidence is what this ID token and the key that verified it prove about the document.
func newEvidence(document []byte, id *identity, now time.Time) ([]byte, error) {
	e := evidence.Evidence{IDToken: id.raw, JWKS: &evidence.JWKS{Keys: []json.RawMessage{id.key}}}
	out, err := evidence.Encode(e, chain.OIDCNonce, document, now)
	if err != nil {
		return nil, fmt.Errorf("consent: %w", err)
	}
	return out, nil
}
