// Package evidence is what a user's consent rests on: one file for each grant, whose SHA-256 stands in every certificate of the
// grant. It reads the file strictly and verifies the user's proof in it, by type of consent, as an auditor does: without
// the appliance, a clock, a network or a device. The appliance verifies what it made with the same code before it records it.
//
// What a proof is anchored in stands in the file itself: the provider's key, the CA of the user's certificate, the key of the
// user's authenticator. That these were the right ones is for their owners to say.
//
// Functions are safe for concurrent use, and so is an Evidence that nobody changes.
package evidence

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
)

const version = 1

// MaxBytes bounds an evidence file.
const MaxBytes = 256 << 10

// maxSkew is the accepted difference between the clock of who signed and the entry that recorded it.
const maxSkew = 5 * time.Minute

// Evidence is the file (docs/formats/consent.md). A type of consent has the members named for it and no others.
type Evidence struct {
	Version     int    `json:"v"`
	ConsentType string `json:"consent_type"`
	Grant       string `json:"grant"` // base64url of the canonical grant document

	IDToken string `json:"id_token,omitempty"` // oidc_nonce: compact JWS whose nonce is the grant's hash

	SubjectToken string `json:"subject_token,omitempty"` // token_exchange: compact JWS
	Audience     string `json:"audience,omitempty"`      // token_exchange: the appliance's own at the provider

	JWKS *JWKS `json:"jwks,omitempty"` // oidc_nonce, token_exchange: the one key that verified the token, as served

	JWS         string `json:"jws,omitempty"`          // jws: the grant document, signed by the user
	Root        string `json:"root,omitempty"`         // jws: base64 of the accepted CA's DER
	SubjectFrom string `json:"subject_from,omitempty"` // jws: the certificate's field that is the user's subject

	WebAuthn *Assertion `json:"webauthn,omitempty"` // webauthn
}

// JWKS is a JSON Web Key Set (RFC 7517 §5).
type JWKS struct {
	Keys []json.RawMessage `json:"keys"`
}

// Encode gives the file of an Evidence over this grant document, after verifying it as of now.
func Encode(e Evidence, kind chain.ConsentType, document []byte, now time.Time) ([]byte, error) {
	e.Version, e.ConsentType, e.Grant = version, kind.String(), base64.RawURLEncoding.EncodeToString(document)
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		return nil, fmt.Errorf("evidence: encode: %w", err)
	}
	data := bytes.TrimSuffix(out.Bytes(), []byte("\n"))
	p, err := Parse(data)
	if err != nil {
		return nil, err
	}
	return data, p.Verify(now)
}

// Parsed is evidence whose form is right. Nothing in it is verified yet.
type Parsed struct {
	Type     chain.ConsentType
	Document []byte // the canonical grant document
	Grant    chain.GrantDocument
	evidence Evidence
}

// Parse reads a file. Unknown, duplicate and missing members, and those of another type of consent, are refused.
func Parse(data []byte) (*Parsed, error) {
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("evidence: %d bytes; at most %d are allowed", len(data), MaxBytes)
	}
	var e Evidence
	if err := strict(data, &e); err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	kind := chain.ParseConsentType(e.ConsentType)
	if e.Version != version || kind == chain.ConsentUnknown {
		return nil, fmt.Errorf("evidence: version %d of consent %.32q", e.Version, e.ConsentType)
	}
	if err := e.members(kind); err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(e.Grant)
	if err != nil {
		return nil, errors.New("evidence: grant: not base64url")
	}
	document, err := chain.ParseGrantDocument(raw)
	if err != nil {
		return nil, fmt.Errorf("evidence: grant: %w", err)
	}
	return &Parsed{Type: kind, Document: raw, Grant: document, evidence: e}, nil
}

// members checks that exactly the members of this type are there.
func (e *Evidence) members(kind chain.ConsentType) error {
	for _, m := range []struct {
		name string
		has  bool
		of   []chain.ConsentType
	}{
		{"id_token", e.IDToken != "", []chain.ConsentType{chain.OIDCNonce}},
		{"subject_token", e.SubjectToken != "", []chain.ConsentType{chain.TokenExchange}},
		{"audience", e.Audience != "", []chain.ConsentType{chain.TokenExchange}},
		{"jwks", e.JWKS != nil, []chain.ConsentType{chain.OIDCNonce, chain.TokenExchange}},
		{"jws", e.JWS != "", []chain.ConsentType{chain.JWS}},
		{"root", e.Root != "", []chain.ConsentType{chain.JWS}},
		{"subject_from", e.SubjectFrom != "", []chain.ConsentType{chain.JWS}},
		{"webauthn", e.WebAuthn != nil, []chain.ConsentType{chain.WebAuthn}},
	} {
		wanted := false
		for _, k := range m.of {
			wanted = wanted || k == kind
		}
		if m.has != wanted {
			return fmt.Errorf("member %s: a consent by %s has it: %t", m.name, kind, wanted)
		}
	}
	return nil
}

// Verify checks the user's proof over this grant. At is when it was recorded.
func (p *Parsed) Verify(at time.Time) error {
	var err error
	switch p.Type {
	case chain.OIDCNonce:
		err = p.idToken()
	case chain.TokenExchange:
		err = p.subjectToken(at)
	case chain.JWS:
		err = p.signature(at)
	case chain.WebAuthn:
		err = p.assertion()
	case chain.ConsentUnknown:
		err = errors.New("no type of consent")
	}
	if err != nil {
		return fmt.Errorf("evidence: %s: %w", p.Type, err)
	}
	return nil
}

// strict refuses what encoding/json lets pass: unknown and duplicate members, at any depth, and what follows the object.
func strict(data []byte, into any) error {
	if err := distinct(json.NewDecoder(bytes.NewReader(data))); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("not JSON of this format: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the object")
	}
	return nil
}

// distinct walks one JSON value. Depth is bounded by the decoder.
func distinct(d *json.Decoder) error {
	t, err := d.Token()
	if err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	switch t {
	case json.Delim('{'):
		seen := map[string]bool{}
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return fmt.Errorf("not JSON: %w", err)
			}
			s, _ := name.(string) // a member's name is nothing else
			if seen[s] {
				return fmt.Errorf("duplicate member %.40q", s)
			}
			seen[s] = true
			if err := distinct(d); err != nil {
				return err
			}
		}
	case json.Delim('['):
		for d.More() {
			if err := distinct(d); err != nil {
				return err
			}
		}
	default:
		return nil
	}
	_, err = d.Token() // the closing one
	return err
}
