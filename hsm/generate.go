package hsm

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"

	"github.com/miekg/pkcs11"
)

// idSize makes CKA_IDs that two nodes of one token will not both pick.
const idSize = 16

// Generate makes a key pair inside the token, under a label that no key has yet (ErrKeyExists) and an id of 128
// random bits. The private key is sensitive, not extractable, not copyable and not modifiable; all it can do is sign, which is
// read back: ErrUses. When Generate fails after the token has made the pair, the pair stays: look for the label before trying again.
func (t *Token) Generate(ctx context.Context, label string, alg Algorithm) (*Key, error) {
	if err := checkLabel("object", label, maxObject); err != nil {
		return nil, fmt.Errorf("hsm: generate key: %w: %w", ErrURI, err)
	}
	if alg < P256 || alg > Ed25519 {
		return nil, fmt.Errorf("hsm: generate key %q: %w: %v", label, ErrUnsupported, alg)
	}
	u := URI{token: t.label, object: label}
	// A token that was lost is recovered now: generation itself is never repeated.
	if err := t.Check(ctx); err != nil {
		return nil, err
	}
	if t.apart != nil {
		k, err := t.apart.find(ctx, u, request{Op: opGenerate, Label: label, Algorithm: alg})
		if err != nil {
			return nil, fmt.Errorf("hsm: generate key %s: %w", u, err)
		}
		return k, nil
	}
	_, err := do(ctx, t, func(l *live, s session) (struct{}, error) { return struct{}{}, t.generate(l, s, u, alg) })
	if err != nil {
		return nil, fmt.Errorf("hsm: generate key %s: %w", u, err)
	}
	return t.Signer(ctx, u.String())
}

func (t *Token) generate(l *live, s session, u URI, alg Algorithm) error {
	t.generating.Lock()
	defer t.generating.Unlock()
	taken, err := s.find(1, pkcs11.NewAttribute(pkcs11.CKA_LABEL, u.object))
	if err != nil {
		return err
	}
	if len(taken) > 0 {
		return ErrKeyExists
	}
	offered, err := algorithms(t.mod.raw, l.slot)
	if err != nil {
		return err
	}
	if !slices.Contains(offered, alg) {
		return fmt.Errorf("%w: the module offers no mechanism for %v", ErrUnsupported, alg)
	}
	id := make([]byte, idSize)
	if _, err := rand.Read(id); err != nil {
		return fmt.Errorf("choose an id: %w", err)
	}
	if err := t.generatePair(l, id, u.object, alg); err != nil {
		return onlyOnce(err)
	}
	return onlyOnce(s.signsOnly(id))
}

// signsOnly reads back what a module made of the template.
func (s session) signsOnly(id []byte) error {
	found, err := s.find(2, pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_ID, id))
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return fmt.Errorf("%w: %d private keys of the id that was chosen", ErrAmbiguous, len(found))
	}
	uses, err := s.uses(found[0])
	if err != nil {
		return err
	}
	if !slices.Equal(uses, []string{"sign"}) {
		return fmt.Errorf("%w: the token says that it can %v", ErrUses, uses)
	}
	return nil
}

// finalError keeps recovery from repeating what must not happen twice.
type finalError struct{ cause error }

func (e finalError) Error() string { return e.cause.Error() }
func (e finalError) Unwrap() error { return e.cause }

func onlyOnce(err error) error {
	if err == nil {
		return nil
	}
	return finalError{err}
}

// publicTemplate leaves CKA_VERIFY to the module, for nobody verifies in the token: tpm2-pkcs11 takes the right to verify for a
// right to decrypt, and then refuses a private half that says no to it.
func publicTemplate(id []byte, label string) []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_COPYABLE, false),
	}
}

// privateTemplate says every use out loud: modules differ in what they grant by default.
func privateTemplate(id []byte, label string) []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN_RECOVER, false),
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, false),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, false),
		pkcs11.NewAttribute(pkcs11.CKA_DERIVE, false),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_COPYABLE, false),
	}
}

// generatePair does it in a session of its own, for the pool's are read-only. It does without crypto11, which would have its way with
// CKA_VERIFY and has no call for Ed25519.
func (t *Token) generatePair(l *live, id []byte, label string, alg Algorithm) error {
	raw := t.mod.raw
	writable, err := raw.OpenSession(l.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return fmt.Errorf("open session: %w", err)
	}
	defer func() { _ = raw.CloseSession(writable) }()
	public := append(publicTemplate(id, label),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, alg.keyType()),
		pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, alg.params()))
	private := append(privateTemplate(id, label), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, alg.keyType()))
	mechanism := []*pkcs11.Mechanism{pkcs11.NewMechanism(alg.generation(), nil)}
	_, _, err = raw.GenerateKeyPair(writable, mechanism, public, private)
	return err
}
