package softhsm

import (
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// ReadValue asks for a private key's CKA_VALUE, as a thief with the PIN would; that it is refused is what tests want
// (CKR_ATTRIBUTE_SENSITIVE, PKCS #11 v2.40 §5.7). No token of the module may be open in this process.
func ReadValue(module, token, pin, object string) (value []byte, err error) {
	m := pkcs11.New(module)
	if m == nil {
		return nil, fmt.Errorf("softhsm: %s does not load", module)
	}
	defer m.Destroy()
	if err := m.Initialize(); err != nil {
		return nil, fmt.Errorf("softhsm: %w", err)
	}
	defer func() { err = errors.Join(err, m.Finalize()) }()
	slot, err := slotOf(m, token)
	if err != nil {
		return nil, err
	}
	session, err := m.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
	if err != nil {
		return nil, fmt.Errorf("softhsm: %w", err)
	}
	defer func() { err = errors.Join(err, m.CloseSession(session)) }()
	if err := m.Login(session, pkcs11.CKU_USER, pin); err != nil {
		return nil, fmt.Errorf("softhsm: %w", err)
	}
	return readValue(m, session, object)
}

func slotOf(m *pkcs11.Ctx, token string) (uint, error) {
	slots, err := m.GetSlotList(true)
	if err != nil {
		return 0, fmt.Errorf("softhsm: %w", err)
	}
	for _, slot := range slots {
		if info, err := m.GetTokenInfo(slot); err == nil && info.Label == token {
			return slot, nil
		}
	}
	return 0, fmt.Errorf("softhsm: no token %q", token)
}

func readValue(m *pkcs11.Ctx, session pkcs11.SessionHandle, object string) ([]byte, error) {
	key := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_LABEL, object),
	}
	if err := m.FindObjectsInit(session, key); err != nil {
		return nil, fmt.Errorf("softhsm: %w", err)
	}
	found, _, err := m.FindObjects(session, 2)
	if err := errors.Join(err, m.FindObjectsFinal(session)); err != nil {
		return nil, fmt.Errorf("softhsm: %w", err)
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("softhsm: %d private keys %q", len(found), object)
	}
	attrs, err := m.GetAttributeValue(session, found[0], []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
	if err != nil {
		return nil, fmt.Errorf("softhsm: read CKA_VALUE: %w", err)
	}
	return attrs[0].Value, nil
}
