package bundle

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// Evidence is the file evidence/<grant_id>.json: what shows that the user consented. Its SHA-256, over the file's exact bytes, is the
// grant's evidence hash.
type Evidence struct {
	Version     int             `json:"v"` // 1
	ConsentType string          `json:"consent_type"`
	Grant       string          `json:"grant"`    // base64url of the canonical grant document
	IDToken     string          `json:"id_token"` // compact JWS of the identity provider
	JWKS        json.RawMessage `json:"jwks"`     // its keys, as first seen
}

// grantFact is a grant as its entries tell it.
type grantFact struct {
	id       string
	index    uint64 // of the entry that holds the evidence
	evidence string // hexadecimal; "" until the user consented
	hash     string // of the canonical grant document
	consent  string
	document []byte // the canonical grant document; nil if the evidence is not here or is false
}

func grantOf(env record.Envelope) (grantFact, error) {
	body, err := record.DecodeBody[record.GrantBody](env)
	if err != nil {
		return grantFact{}, err
	}
	if body.GrantID != env.Grant {
		return grantFact{}, errors.New("grant_id differs between envelope and body")
	}
	return grantFact{id: body.GrantID, evidence: body.EvidenceHash, hash: body.GrantHash, consent: body.ConsentType}, nil
}

// noteGrant keeps the entry with the evidence. Later entries of the grant must not contradict it.
func (v *verifier) noteGrant(f *fact) {
	g := f.grant
	g.index = f.index
	have, known := v.grants[g.id]
	switch {
	case !known || have.evidence == "":
		v.grants[g.id] = &g
	case g.evidence != "" && (g.evidence != have.evidence || g.hash != have.hash):
		v.tally.fail(CheckEvidence, at(f.index, entriesPath(f.index/chunk)), "contradicts the grant in entry %d", have.index)
	}
}

// evidence checks the consent of every grant.
func (v *verifier) evidence() {
	for _, path := range v.files.under(dirEvidence) {
		id := strings.TrimSuffix(strings.TrimPrefix(path, dirEvidence), ".json")
		if v.grants[id] == nil && v.opts.Range == nil {
			v.tally.fail(CheckEvidence, in(path), "no entry records this grant")
		}
	}
	for id, g := range v.grants {
		where := at(g.index, evidencePath(id))
		if g.evidence == "" {
			continue // asked for and not given
		}
		if !validPath(evidencePath(id)) || !v.files.has(evidencePath(id)) {
			if g.index >= v.from && g.index < v.to {
				v.tally.unsure(CheckEvidence, where, "absent: erased or withheld")
			}
			continue
		}
		data, err := v.files.read(evidencePath(id))
		if err == nil {
			err = v.consent(g, data)
		}
		if errors.Is(err, errConsentKind) {
			v.tally.unsure(CheckEvidence, where, "%v", err)
			continue
		}
		v.tally.check(CheckEvidence, where, err)
	}
}

var errConsentKind = errors.New("this kind of consent is compared by its hash only")

// consent verifies one evidence file against the grant's entry.
func (v *verifier) consent(g *grantFact, data []byte) error {
	sum := sha256.Sum256(data)
	if hexOf(sum) != g.evidence {
		return errors.New("its SHA-256 is not the evidence hash in the entry")
	}
	kind := chain.ParseConsentType(g.consent)
	if kind != chain.OIDCNonce && kind != chain.TokenExchange {
		return fmt.Errorf("%w: %q", errConsentKind, g.consent)
	}
	var e Evidence
	if err := strictJSON(data, &e); err != nil {
		return err
	}
	if e.Version != 1 || e.ConsentType != g.consent {
		return fmt.Errorf("version %d, consent %q; the entry says %q", e.Version, e.ConsentType, g.consent)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(e.Grant)
	if err != nil {
		return errors.New("grant: not base64url")
	}
	document, err := chain.ParseGrantDocument(raw)
	if err != nil {
		return err
	}
	if sum = sha256.Sum256(raw); hexOf(sum) != g.hash {
		return errors.New("grant: its SHA-256 is not the grant hash in the entry")
	}
	if document.GrantID != g.id || document.Origin != v.anchors.origin {
		return errors.New("grant: of another id or log")
	}
	nonce := ""
	if kind == chain.OIDCNonce {
		nonce = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	if err := verifyToken(&e, &document, nonce); err != nil {
		return fmt.Errorf("id_token: %w", err)
	}
	g.document = raw
	return nil
}

// idClaims are the claims of OpenID Connect Core §2 that the evidence rests on.
type idClaims struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
	Audience audience `json:"aud"`
	Nonce    string   `json:"nonce"`
}

// audience is one string or a list of them.
type audience []string

// UnmarshalJSON implements [json.Unmarshaler].
func (a *audience) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*a = audience{one}
		return nil
	}
	var many []string
	if err := json.Unmarshal(data, &many); err != nil {
		return err
	}
	*a = many
	return nil
}

// verifyToken checks signature, user, client and nonce. The token's expiry is not asked: it was fresh when it was logged.
func verifyToken(e *Evidence, g *chain.GrantDocument, nonce string) error {
	token, err := jose.ParseSignedCompact(e.IDToken, []jose.SignatureAlgorithm{jose.RS256, jose.ES256})
	if err != nil {
		return err
	}
	var keys jose.JSONWebKeySet
	if err := json.Unmarshal(e.JWKS, &keys); err != nil {
		return errors.New("the key set is not a JWKS")
	}
	payload, err := verifyWith(token, keys.Keys)
	if err != nil {
		return err
	}
	var c idClaims
	if err := json.Unmarshal(payload, &c); err != nil {
		return errors.New("its claims are not those of an ID token")
	}
	switch {
	case c.Issuer != g.Issuer || c.Subject != g.Subject:
		return errors.New("iss or sub is not the user of the grant")
	case !slices.Contains(c.Audience, g.ClientID):
		return errors.New("aud is not the client of the grant")
	case nonce != "" && c.Nonce != nonce:
		return errors.New("nonce is not the SHA-256 of the grant")
	}
	return nil
}

const (
	maxKeys    = 64
	minRSABits = 2048
	maxRSABits = 8192
)

// verifyWith tries the keys that the token names by its kid; all of them if it names none.
func verifyWith(token *jose.JSONWebSignature, keys []jose.JSONWebKey) ([]byte, error) {
	if len(keys) > maxKeys {
		return nil, fmt.Errorf("more than %d keys", maxKeys)
	}
	kid := token.Signatures[0].Protected.KeyID
	for _, key := range keys {
		if kid != "" && key.KeyID != kid {
			continue
		}
		switch k := key.Key.(type) {
		case *rsa.PublicKey:
			if bits := k.N.BitLen(); bits < minRSABits || bits > maxRSABits {
				continue
			}
		case *ecdsa.PublicKey:
		default:
			continue
		}
		if payload, err := token.Verify(key.Key); err == nil {
			return payload, nil
		}
	}
	return nil, errors.New("no key of the set verifies its signature")
}
