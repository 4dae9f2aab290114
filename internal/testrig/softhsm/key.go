package softhsm

import (
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// Key is a key pair as a careless hand makes it: what the appliance makes itself is never extractable and only signs.
type Key struct {
	Label       string
	P384        bool // else P-256
	Extractable bool
	Derives     bool
}

// MakeKey makes a key on a token. No token of the module may be open in this process.
func (h *HSM) MakeKey(token, pin string, k Key) {
	h.t.Helper()
	params := []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07} // RFC 5480 §2.1.1.1
	if k.P384 {
		params = []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22}
	}
	id := []byte(k.Label + "/careless")
	public := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_ID, id), pkcs11.NewAttribute(pkcs11.CKA_LABEL, k.Label),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true), pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, params),
	}
	private := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_ID, id), pkcs11.NewAttribute(pkcs11.CKA_LABEL, k.Label),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true), pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, k.Extractable), pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN_RECOVER, false), pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, false),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, false), pkcs11.NewAttribute(pkcs11.CKA_DERIVE, k.Derives),
	}
	h.write(token, pin, func(m *pkcs11.Ctx, s pkcs11.SessionHandle) error {
		_, _, err := m.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)}, public, private)
		return err
	})
}

// DeleteKeys takes all objects of a label away. No token of the module may be open in this process.
func (h *HSM) DeleteKeys(token, pin, label string) {
	h.t.Helper()
	h.write(token, pin, func(m *pkcs11.Ctx, s pkcs11.SessionHandle) error {
		if err := m.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)}); err != nil {
			return err
		}
		found, _, err := m.FindObjects(s, 16)
		if err := errors.Join(err, m.FindObjectsFinal(s)); err != nil {
			return err
		}
		for _, o := range found {
			if err := m.DestroyObject(s, o); err != nil {
				return err
			}
		}
		if len(found) == 0 {
			return fmt.Errorf("no objects %q", label)
		}
		return nil
	})
}

// write does something in a session that may write.
func (h *HSM) write(token, pin string, do func(m *pkcs11.Ctx, s pkcs11.SessionHandle) error) {
	h.t.Helper()
	if err := h.inSession(token, pin, do); err != nil {
		h.t.Fatalf("softhsm: token %q: %v", token, err)
	}
}

func (h *HSM) inSession(token, pin string, do func(m *pkcs11.Ctx, s pkcs11.SessionHandle) error) (err error) {
	m := pkcs11.New(h.module)
	if m == nil {
		return fmt.Errorf("%s does not load", h.module)
	}
	defer m.Destroy()
	if err := m.Initialize(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Finalize()) }()
	slot, err := slotOf(m, token)
	if err != nil {
		return err
	}
	s, err := m.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.CloseSession(s)) }()
	if err := m.Login(s, pkcs11.CKU_USER, pin); err != nil {
		return err
	}
	return do(m, s)
}
