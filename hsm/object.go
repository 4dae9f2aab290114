package hsm

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/miekg/pkcs11"
)

// session is one session of the module, used by one goroutine at a time.
type session struct {
	raw    *pkcs11.Ctx
	handle pkcs11.SessionHandle
}

// find returns at most limit objects that match the template.
func (s session) find(limit int, template ...*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	if err := s.raw.FindObjectsInit(s.handle, template); err != nil {
		return nil, fmt.Errorf("find objects: %w", err)
	}
	found, _, err := s.raw.FindObjects(s.handle, limit)
	if final := s.raw.FindObjectsFinal(s.handle); err == nil {
		err = final
	}
	if err != nil {
		return nil, fmt.Errorf("find objects: %w", err)
	}
	return found, nil
}

func (s session) attribute(o pkcs11.ObjectHandle, kind uint) ([]byte, error) {
	got, err := s.raw.GetAttributeValue(s.handle, o, []*pkcs11.Attribute{pkcs11.NewAttribute(kind, nil)})
	if err != nil {
		return nil, fmt.Errorf("read attribute %#x: %w", kind, err)
	}
	if len(got) != 1 {
		return nil, fmt.Errorf("read attribute %#x: the module returned %d values", kind, len(got))
	}
	return got[0].Value, nil
}

// number reads a CK_ULONG attribute: 4 or 8 bytes in the machine's order.
func (s session) number(o pkcs11.ObjectHandle, kind uint) (uint64, error) {
	value, err := s.attribute(o, kind)
	if err != nil {
		return 0, err
	}
	switch len(value) {
	case 4:
		return uint64(binary.NativeEndian.Uint32(value)), nil
	case 8:
		return binary.NativeEndian.Uint64(value), nil
	default:
		return math.MaxUint64, fmt.Errorf("attribute %#x has %d bytes", kind, len(value))
	}
}

func (s session) flag(o pkcs11.ObjectHandle, kind uint) (bool, error) {
	value, err := s.attribute(o, kind)
	if err != nil {
		return false, err
	}
	if len(value) != 1 {
		return false, fmt.Errorf("attribute %#x has %d bytes", kind, len(value))
	}
	return value[0] != 0, nil
}

// located is a private key found on the token, with its public half.
type located struct {
	handle    pkcs11.ObjectHandle
	algorithm Algorithm
	public    publicKey
}

// locate finds the one private key that u names.
func (s session) locate(u URI) (located, error) {
	template := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
	}
	if u.object != "" {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_LABEL, u.object))
	}
	if u.id != "" {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_ID, []byte(u.id)))
	}
	found, err := s.find(2, template...)
	switch {
	case err != nil:
		return located{}, err
	case len(found) == 0:
		return located{}, ErrKeyNotFound
	case len(found) > 1:
		return located{}, fmt.Errorf("%w: several private keys match", ErrAmbiguous)
	}
	if err := s.checkKept(found[0]); err != nil {
		return located{}, err
	}
	return s.publicHalf(found[0], u)
}

// checkKept refuses a private key that the token would hand out.
func (s session) checkKept(key pkcs11.ObjectHandle) error {
	sensitive, err := s.flag(key, pkcs11.CKA_SENSITIVE)
	if err != nil {
		return err
	}
	extractable, err := s.flag(key, pkcs11.CKA_EXTRACTABLE)
	if err != nil {
		return err
	}
	if !sensitive || extractable {
		return fmt.Errorf("%w: sensitive=%t extractable=%t", ErrExportable, sensitive, extractable)
	}
	return nil
}

// uses reads what a private key may do. Modules leave out uses that they do not know.
func (s session) uses(key pkcs11.ObjectHandle) ([]string, error) {
	var found []string
	for _, use := range []struct {
		name string
		kind uint
	}{
		{"sign", pkcs11.CKA_SIGN},
		{"sign with recovery", pkcs11.CKA_SIGN_RECOVER},
		{"decrypt", pkcs11.CKA_DECRYPT},
		{"unwrap", pkcs11.CKA_UNWRAP},
		{"derive", pkcs11.CKA_DERIVE},
	} {
		can, err := s.flag(key, use.kind)
		if err != nil && !isCode(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID) {
			return nil, err
		}
		if can {
			found = append(found, use.name)
		}
	}
	return found, nil
}

// publicHalf reads the public key object that shares the private key's CKA_ID, or else a certificate that does.
func (s session) publicHalf(private pkcs11.ObjectHandle, u URI) (located, error) {
	id, err := s.attribute(private, pkcs11.CKA_ID)
	if err != nil {
		return located{}, err
	}
	match := pkcs11.NewAttribute(pkcs11.CKA_ID, id)
	if len(id) == 0 {
		match = pkcs11.NewAttribute(pkcs11.CKA_LABEL, u.object)
	}
	kind, err := s.number(private, pkcs11.CKA_KEY_TYPE)
	if err != nil {
		return located{}, err
	}
	found, err := s.find(2, pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), match)
	if err != nil {
		return located{}, err
	}
	var public publicKey
	var algorithm Algorithm
	switch len(found) {
	case 0:
		algorithm, public, err = s.certificateKey(match)
	case 1:
		algorithm, public, err = s.publicKey(found[0])
	default:
		err = fmt.Errorf("%w: several public keys share the private key's id", ErrAmbiguous)
	}
	if err != nil {
		return located{}, err
	}
	if kind != uint64(algorithm.keyType()) {
		return located{}, fmt.Errorf("%w: private key has type %#x, its public half is %v", ErrUnsupported, kind, algorithm)
	}
	return located{handle: private, algorithm: algorithm, public: public}, nil
}

func (s session) publicKey(o pkcs11.ObjectHandle) (Algorithm, publicKey, error) {
	params, err := s.attribute(o, pkcs11.CKA_EC_PARAMS)
	if err != nil {
		return 0, nil, fmt.Errorf("%w: not an elliptic curve key: %w", ErrUnsupported, err)
	}
	point, err := s.attribute(o, pkcs11.CKA_EC_POINT)
	if err != nil {
		return 0, nil, err
	}
	return parsePublic(params, point)
}

func (s session) certificateKey(match *pkcs11.Attribute) (Algorithm, publicKey, error) {
	found, err := s.find(2, pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_CERTIFICATE),
		pkcs11.NewAttribute(pkcs11.CKA_CERTIFICATE_TYPE, pkcs11.CKC_X_509), match)
	switch {
	case err != nil:
		return 0, nil, err
	case len(found) == 0:
		return 0, nil, fmt.Errorf("%w: the private key has neither public key nor certificate beside it", ErrKeyNotFound)
	case len(found) > 1:
		return 0, nil, fmt.Errorf("%w: several certificates share the private key's id", ErrAmbiguous)
	}
	der, err := s.attribute(found[0], pkcs11.CKA_VALUE)
	if err != nil {
		return 0, nil, err
	}
	return parseCertificate(der)
}
