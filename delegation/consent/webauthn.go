package consent

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/protocol/webauthncose"
	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/evidence"
)

// Credential is a user's authenticator: its id, and its public key in COSE form as it was registered.
type Credential struct{ ID, PublicKey []byte }

// Credentials keeps users' authenticators. Register and Forget refuse (Refuse) a sign-in that was ended since, and Register one that anybody has.
type Credentials interface {
	Credentials(ctx context.Context, u User) ([]Credential, error)
	Register(ctx context.Context, in SignIn, c Credential) error
	Forget(ctx context.Context, in SignIn, id []byte) error
}

// authenticators runs the WebAuthn ceremonies of one origin. nil where there can be none.
type authenticators struct {
	party  *webauthn.WebAuthn
	id     string
	origin string
}

// newAuthenticators takes the appliance's public URL. A relying party is a domain (WebAuthn §5.1.2): an address has none.
func newAuthenticators(public string) (*authenticators, error) {
	u, err := url.Parse(public)
	if err != nil {
		return nil, fmt.Errorf("consent: public URL: %w", err)
	}
	if _, err := netip.ParseAddr(u.Hostname()); err == nil {
		return nil, nil //nolint:nilnil // no ceremonies, and nothing is wrong
	}
	a := &authenticators{id: u.Hostname(), origin: u.Scheme + "://" + u.Host}
	a.party, err = webauthn.New(&webauthn.Config{
		RPID: a.id, RPDisplayName: "Signet", RPOrigins: []string{a.origin}, AttestationPreference: protocol.PreferNoAttestation,
		AuthenticatorSelection: protocol.AuthenticatorSelection{UserVerification: protocol.VerificationRequired},
	})
	if err != nil {
		return nil, fmt.Errorf("consent: webauthn: %w", err)
	}
	return a, nil
}

// holder is a user as the library wants one. The handle is a hash: authenticators keep it, and it names nobody.
type holder struct {
	user User
	keys []Credential
}

func (h holder) WebAuthnID() []byte {
	sum := sha256.Sum256([]byte(h.user.Issuer + "\x00" + h.user.Subject))
	return sum[:]
}
func (h holder) WebAuthnName() string        { return h.user.Subject }
func (h holder) WebAuthnDisplayName() string { return h.user.Subject }

func (h holder) WebAuthnCredentials() []webauthn.Credential {
	out := make([]webauthn.Credential, len(h.keys))
	for i, k := range h.keys {
		out[i] = webauthn.Credential{ID: k.ID, PublicKey: k.PublicKey}
	}
	return out
}

// creation begins a registration: what the browser is to be told, and what is to be kept for finish.
func (a *authenticators) creation(h holder) (string, *webauthn.SessionData, error) {
	exclude := make([]protocol.CredentialDescriptor, len(h.keys))
	for i, k := range h.keys {
		exclude[i] = protocol.CredentialDescriptor{Type: protocol.PublicKeyCredentialType, CredentialID: k.ID}
	}
	options, session, err := a.party.BeginRegistration(h, webauthn.WithExclusions(exclude), webauthn.WithCredentialParameters([]protocol.CredentialParameter{
		{Type: protocol.PublicKeyCredentialType, Algorithm: webauthncose.AlgES256},
		{Type: protocol.PublicKeyCredentialType, Algorithm: webauthncose.AlgEdDSA},
		{Type: protocol.PublicKeyCredentialType, Algorithm: webauthncose.AlgRS256},
	}))
	if err != nil {
		return "", nil, fmt.Errorf("consent: webauthn: %w", err)
	}
	text, err := json.Marshal(options.Response)
	return string(text), session, err
}

// created verifies what the browser brought for a registration.
func (a *authenticators) created(h holder, session *webauthn.SessionData, response string) (Credential, error) {
	if session == nil {
		return Credential{}, refuse("flow_missing", errors.New("no registration was begun"))
	}
	parsed, err := protocol.ParseCredentialCreationResponseBytes([]byte(response))
	if err != nil {
		return Credential{}, refuse("credential_invalid", describe(err))
	}
	c, err := a.party.CreateCredential(h, *session, parsed)
	if err != nil {
		return Credential{}, refuse("credential_invalid", describe(err))
	}
	if _, err := spki(c.PublicKey); err != nil {
		return Credential{}, refuse("credential_invalid", err)
	}
	return Credential{ID: c.ID, PublicKey: c.PublicKey}, nil
}

// describe adds what the library keeps apart.
func describe(err error) error {
	var p *protocol.Error
	if errors.As(err, &p) {
		return fmt.Errorf("%s: %s: %.200s", p.Type, p.Details, p.DevInfo)
	}
	return err
}

// spki is a COSE key as SubjectPublicKeyInfo.
func spki(cose []byte) ([]byte, error) {
	block, _ := pem.Decode([]byte(webauthncose.DisplayPublicKey(cose)))
	if block == nil {
		return nil, errors.New("a key of an unknown kind")
	}
	return block.Bytes, nil
}

// request is what the browser is told to have this document signed.
func (a *authenticators) request(h holder, document []byte) (string, *webauthn.SessionData, error) {
	sum := sha256.Sum256(document)
	options, session, err := a.party.BeginLogin(h, webauthn.WithChallenge(sum[:]), webauthn.WithUserVerification(protocol.VerificationRequired))
	if err != nil {
		return "", nil, fmt.Errorf("consent: webauthn: %w", err)
	}
	text, err := json.Marshal(options.Response)
	return string(text), session, err
}

// asserted verifies an assertion over the document, and gives what it proves and which credential made it.
func (a *authenticators) asserted(h holder, document []byte, response string) (*evidence.Assertion, []byte, error) {
	_, session, err := a.request(h, document)
	if err != nil {
		return nil, nil, err
	}
	parsed, err := protocol.ParseCredentialRequestResponseBytes([]byte(response))
	if err != nil {
		return nil, nil, refuse("assertion_invalid", describe(err))
	}
	used, err := a.party.ValidateLogin(h, *session, parsed)
	if err != nil {
		return nil, nil, refuse("assertion_invalid", describe(err))
	}
	key, err := spki(used.PublicKey)
	if err != nil {
		return nil, nil, refuse("assertion_invalid", err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	raw := parsed.Raw.AssertionResponse
	return &evidence.Assertion{
		RPID: a.id, Origin: a.origin, CredentialID: b64(used.ID), PublicKey: b64(key),
		ClientData: b64(raw.ClientDataJSON), AuthenticatorData: b64(raw.AuthenticatorData), Signature: b64(raw.Signature),
	}, used.ID, nil
}

// keyRequest is what the review page needs to have the user's key sign; "" if they have none.
func (h *Handler) keyRequest(ctx context.Context, f flow) (string, error) {
	if h.keys == nil {
		return "", nil
	}
	keys, err := h.credentials.Credentials(ctx, f.user)
	if err != nil || len(keys) == 0 {
		return "", err
	}
	document, _, err := h.document(ctx, f)
	if err != nil {
		return "", err
	}
	options, _, err := h.keys.request(holder{f.user, keys}, document)
	return options, err
}

// approveByKey takes an assertion in place of the second login.
func (h *Handler) approveByKey(w http.ResponseWriter, r *http.Request, f flow) error {
	if h.keys == nil {
		return refuse("form_invalid", errors.New("there are no authenticators here"))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), redeemTimeout)
	defer cancel()
	keys, err := h.credentials.Credentials(ctx, f.user)
	if err != nil {
		return fmt.Errorf("consent: credentials: %w", err)
	}
	if len(keys) == 0 {
		return refuse("assertion_invalid", errors.New("the user has no credential"))
	}
	document, _, err := h.document(ctx, f)
	if err != nil {
		return err
	}
	assertion, id, err := h.keys.asserted(holder{f.user, keys}, document, r.PostForm.Get("credential"))
	if err != nil {
		return err
	}
	file, err := evidence.Encode(evidence.Evidence{WebAuthn: assertion}, chain.WebAuthn, document, h.now())
	if err != nil {
		return fmt.Errorf("consent: %w", err)
	}
	a := f.who.approval(chain.WebAuthn, document, file)
	a.Credential = id
	return h.approved(ctx, w, f, a)
}
