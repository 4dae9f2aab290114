package evidence

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Assertion is what the user's authenticator signed (Web Authentication Level 2 §7.2). All strings but the first two are base64url.
type Assertion struct {
	RPID              string `json:"rp_id"`
	Origin            string `json:"origin"`
	CredentialID      string `json:"credential_id"`
	PublicKey         string `json:"public_key"` // SubjectPublicKeyInfo, as registered
	ClientData        string `json:"client_data_json"`
	AuthenticatorData string `json:"authenticator_data"`
	Signature         string `json:"signature"`
}

// Flags of authenticator data (§6.1).
const (
	flagUserPresent  = 0x01
	flagUserVerified = 0x04
	minAuthData      = 37
	maxClientData    = 4 << 10
)

type clientData struct {
	Type        string `json:"type"`
	Challenge   string `json:"challenge"`
	Origin      string `json:"origin"`
	CrossOrigin bool   `json:"crossOrigin"`
}

// assertion checks that the registered key signed a challenge that is this grant's hash, on this origin, after verifying its user.
func (p *Parsed) assertion() error {
	a := p.evidence.WebAuthn
	var fields [4][]byte
	for i, text := range []string{a.PublicKey, a.ClientData, a.AuthenticatorData, a.Signature} {
		var err error
		if fields[i], err = base64.RawURLEncoding.Strict().DecodeString(text); err != nil {
			return errors.New("not base64url")
		}
	}
	spki, client, auth, signature := fields[0], fields[1], fields[2], fields[3]
	sum := sha256.Sum256(p.Document)
	if err := a.checkClient(client, base64.RawURLEncoding.EncodeToString(sum[:])); err != nil {
		return err
	}
	rp := sha256.Sum256([]byte(a.RPID))
	switch {
	case len(auth) < minAuthData:
		return errors.New("authenticator data is too short")
	case string(auth[:len(rp)]) != string(rp[:]):
		return errors.New("authenticator data is for another relying party")
	case auth[32]&flagUserPresent == 0 || auth[32]&flagUserVerified == 0:
		return errors.New("the authenticator did not verify its user")
	}
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return errors.New("public_key is none")
	}
	hash := sha256.Sum256(client)
	return verifyAssertion(key, append(auth[:len(auth):len(auth)], hash[:]...), signature)
}

func (a *Assertion) checkClient(raw []byte, challenge string) error {
	if len(raw) > maxClientData {
		return errors.New("client data is too large")
	}
	if err := distinct(json.NewDecoder(strings.NewReader(string(raw)))); err != nil {
		return fmt.Errorf("client data: %w", err)
	}
	var c clientData // browsers may add members (§5.8.1)
	if err := json.Unmarshal(raw, &c); err != nil {
		return errors.New("client data is not JSON")
	}
	origin, err := url.Parse(a.Origin)
	switch {
	case err != nil || origin.Scheme != "https" || origin.Hostname() != a.RPID && !strings.HasSuffix(origin.Hostname(), "."+a.RPID):
		return errors.New("the relying party is not the origin's")
	case c.Type != "webauthn.get":
		return errors.New("client data is of another ceremony")
	case c.Challenge != challenge:
		return errors.New("the challenge is not the SHA-256 of the grant")
	case c.Origin != a.Origin || c.CrossOrigin:
		return errors.New("client data is of another origin")
	}
	return nil
}

// verifyAssertion knows ES256, RS256 and EdDSA (§5.8.5 recommends no others).
func verifyAssertion(key crypto.PublicKey, signed, signature []byte) error {
	sum := sha256.Sum256(signed)
	ok := false
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		ok = k.Curve == elliptic.P256() && ecdsa.VerifyASN1(k, sum[:], signature)
	case *rsa.PublicKey:
		bits := k.N.BitLen()
		ok = bits >= minRSABits && bits <= maxRSABits && rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], signature) == nil
	case ed25519.PublicKey:
		ok = ed25519.Verify(k, signed, signature)
	}
	if !ok {
		return errors.New("the registered key does not verify the assertion")
	}
	return nil
}
