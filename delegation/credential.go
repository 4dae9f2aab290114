package delegation

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// Credential is a user's authenticator: the id that it goes by, and its public key in COSE form.
type Credential struct{ ID, PublicKey []byte }

const (
	maxCredentials   = 16   // of one user
	maxCredentialID  = 1023 // WebAuthn §7.1
	maxCredentialKey = 2 << 10
)

// What is done with credentials, as the log calls it.
const opRegister, opForget, opKeep = "credential.register", "credential.forget", "credential.keep"

// credentialState is a registered authenticator. Its id is taken whoever has it.
type credentialState struct {
	ID        []byte `json:"id"`
	PublicKey []byte `json:"public_key"`
	User      string `json:"user"` // pseudonym
}

func credentialKey(id []byte) string {
	sum := sha256.Sum256(id)
	return keyCredential + hex.EncodeToString(sum[:])
}

// credentialOf is the index of a user's credentials.
func credentialOf(pseudonym string, id []byte) string {
	return keyCredentialOf + pseudonym + "/" + strings.TrimPrefix(credentialKey(id), keyCredential)
}

// Credentials lists a user's authenticators.
func (s *Service) Credentials(ctx context.Context, u chain.User) ([]Credential, error) {
	prefix := keyCredentialOf + s.cfg.Pseudonym(u.Issuer, u.Subject) + "/"
	var hashes []string
	err := s.cfg.Log.Scan(ctx, prefix, "", maxCredentials, func(key string, _ []byte) error {
		hashes = append(hashes, strings.TrimPrefix(key, prefix))
		return nil
	})
	if err != nil {
		return nil, internal("list credentials", err)
	}
	var out []Credential
	for _, h := range hashes {
		c, ok, err := load[credentialState](s.cfg.Log, keyCredential+h)
		if err != nil {
			return nil, internal("read credential", err)
		}
		if ok {
			out = append(out, Credential{ID: c.ID, PublicKey: c.PublicKey})
		}
	}
	return out, nil
}

// RegisterCredential gives a user an authenticator. That the user asked for it, having just signed in, was established by
// the caller.
func (s *Service) RegisterCredential(ctx context.Context, in SignIn, c Credential) error {
	if err := s.registerCredential(ctx, in, c); err != nil {
		return s.deniedTo(ctx, opRegister, in.User, "", err)
	}
	return nil
}

func (s *Service) registerCredential(ctx context.Context, in SignIn, c Credential) error {
	if err := s.cfg.Ready(); err != nil {
		return notReady(err)
	}
	if len(c.ID) == 0 || len(c.ID) > maxCredentialID || len(c.PublicKey) == 0 || len(c.PublicKey) > maxCredentialKey {
		return refuse(Invalid, "credential_invalid", "credential", "an id of 1 to 1023 bytes and a key of 1 to 2048")
	}
	standing, err := s.standing(in)
	if err != nil {
		return err
	}
	have, err := s.Credentials(ctx, in.User)
	if err != nil {
		return err
	}
	if len(have) >= maxCredentials {
		return refuse(Conflict, "too_many_credentials", "credential", "a user has at most 16")
	}
	d := s.credentialDraft(opRegister, in.User, c)
	value, err := encode(credentialState{ID: c.ID, PublicKey: c.PublicKey, User: d.env.User})
	if err != nil {
		return err
	}
	taken := refuse(Conflict, "credential_taken", "credential", "this credential is registered already")
	d.mutations = append(standing, create(credentialKey(c.ID), value, time.Time{}, taken), create(credentialOf(d.env.User, c.ID), []byte{1}, time.Time{}, taken))
	_, err = s.appendFirmly(ctx, d)
	return err
}

// ForgetCredential takes an authenticator from its user: it signs no consent any more.
func (s *Service) ForgetCredential(ctx context.Context, in SignIn, id []byte) error {
	if err := s.forgetCredential(ctx, in, id); err != nil {
		return s.deniedTo(ctx, opForget, in.User, "", err)
	}
	return nil
}

func (s *Service) forgetCredential(ctx context.Context, in SignIn, id []byte) error {
	standing, err := s.standing(in)
	if err != nil {
		return err
	}
	gone := refuse(NotFound, "credential_not_found", "key", "no such credential")
	c, ok, err := load[credentialState](s.cfg.Log, credentialKey(id))
	if err != nil {
		return internal("read credential", err)
	}
	d := s.credentialDraft(opForget, in.User, Credential{ID: id})
	if !ok || c.User != d.env.User {
		return gone
	}
	present := record.Precondition{Op: record.Present, Err: gone}
	d.mutations = append(standing,
		record.Mutation{Key: credentialKey(id), Delete: true, Pre: present}, record.Mutation{Key: credentialOf(d.env.User, id), Delete: true, Pre: present})
	_, err = s.appendFirmly(ctx, d)
	return err
}

// credentialDraft says in the envelope all that the state needs, and in the payload whose it is.
func (s *Service) credentialDraft(action string, u chain.User, c Credential) draft {
	env := record.Envelope{Type: record.TypeAdmin, User: s.cfg.Pseudonym(u.Issuer, u.Subject)}
	return draft{
		env:     env,
		body:    record.AdminBody{Action: action, Target: strings.TrimPrefix(credentialKey(c.ID), keyCredential), Detail: credentialDetail(c)},
		payload: record.RevokePayload{Issuer: u.Issuer, Subject: u.Subject},
	}
}

func credentialDetail(c Credential) map[string]string {
	detail := map[string]string{"credential_id": base64.RawURLEncoding.EncodeToString(c.ID)}
	if c.PublicKey != nil {
		detail["public_key"] = base64.RawURLEncoding.EncodeToString(c.PublicKey)
	}
	return detail
}
