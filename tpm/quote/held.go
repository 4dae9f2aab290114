package quote

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
)

const (
	handleOwner = 0x40000001 // TPM_RH_OWNER (Part 2, 7.4)
	maxHeld     = 256 << 10
)

// HeldKey is the public area of a signing key that was made in a TPM and can never leave it, on P-256 or P-384.
type HeldKey struct {
	public []byte // TPMT_PUBLIC
	key    *ecdsa.PublicKey
}

// ParseHeldKey reads a TPMT_PUBLIC, or a TPM2B_PUBLIC around one, and refuses with [ErrKey] anything but an unrestricted signing
// key that is fixedTPM, fixedParent and sensitiveDataOrigin. Whether a TPM has such a key, only [AK.VerifyHeld] tells.
func ParseHeldKey(public []byte) (*HeldKey, error) {
	p, err := parsePublic(public)
	if err != nil {
		return nil, fmt.Errorf("quote: held key: %w", err)
	}
	errs := []error{p.checkSigning(curveP256, curveP384)}
	if p.symmetric != algNull || (p.scheme != algNull && p.scheme != algECDSA) {
		errs = append(errs, fmt.Errorf("%w: scheme is not ECDSA", ErrKey))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("quote: held key: %w", err)
	}
	key, ok := p.key.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("quote: held key: %w: not ECC", ErrKey)
	}
	return &HeldKey{public: p.raw, key: key}, nil
}

// Public is the verification key. The caller must not change it.
func (h *HeldKey) Public() *ecdsa.PublicKey { return h.key }

// Marshal is the TPMT_PUBLIC.
func (h *HeldKey) Marshal() []byte { return bytes.Clone(h.public) }

// Name is the key's TPM name.
func (h *HeldKey) Name() []byte { return name(h.public) }

// SRK is the public area of a storage root key: a parent of keys, in the owner hierarchy.
type SRK struct {
	public []byte // TPMT_PUBLIC
}

// ParseSRK reads a TPMT_PUBLIC, or a TPM2B_PUBLIC around one, and refuses with [ErrKey] anything but a storage key that was made
// in a TPM and can never leave it.
func ParseSRK(public []byte) (*SRK, error) {
	p, err := parsePublic(public)
	if err != nil {
		return nil, fmt.Errorf("quote: storage root key: %w", err)
	}
	const must = attrFixedTPM | attrFixedParent | attrSensitiveDataOrigin | attrRestricted | attrDecrypt
	_, isRSA := p.key.(*rsa.PublicKey)
	switch {
	case p.attrs&(must|attrSign) != must:
		err = fmt.Errorf("%w: attributes %#08x are not those of a storage key of one TPM", ErrKey, p.attrs)
	case p.nameAlg != algSHA256:
		err = fmt.Errorf("%w: name algorithm is not SHA-256", ErrKey)
	case p.symmetric == algNull || (!isRSA && p.kind != algECC):
		err = fmt.Errorf("%w: it protects no other keys", ErrKey)
	}
	if err != nil {
		return nil, fmt.Errorf("quote: storage root key: %w", err)
	}
	return &SRK{public: p.raw}, nil
}

// Marshal is the TPMT_PUBLIC.
func (s *SRK) Marshal() []byte { return bytes.Clone(s.public) }

// Name is the key's TPM name.
func (s *SRK) Name() []byte { return name(s.public) }

// qualify is the qualified name of a key of that name directly below s, a primary key of the owner hierarchy (Part 1, 26.5).
func (s *SRK) qualify(child []byte) []byte {
	own := name(append(binary.BigEndian.AppendUint32(nil, handleOwner), s.Name()...))
	return name(append(own, child...))
}

// VerifyHeld checks that s is a TPM2_Certify, signed by the attestation key, of this key below this storage root key, with
// qualifying as its qualifying data. The error joins every check that failed.
//
// It ties both to the TPM of the attestation key: the qualified name hashes the parent's name, and the TPM computes it.
func (a *AK) VerifyHeld(s Statement, qualifying []byte, srk *SRK, key *HeldKey) error {
	att, err := parseAttest(s.Attest)
	if err != nil {
		return fmt.Errorf("quote: held key: %w", err)
	}
	errs := []error{att.check(typeCertify, qualifying), verifySignature(a.key, s)}
	if att.kind == typeCertify {
		if !bytes.Equal(att.certified, key.Name()) {
			errs = append(errs, fmt.Errorf("%w: of the certified key", ErrName))
		}
		if !bytes.Equal(att.qualified, srk.qualify(key.Name())) {
			errs = append(errs, fmt.Errorf("%w: the certified key is not below this storage root key", ErrName))
		}
		if !bytes.Equal(att.signer, a.QualifiedName()) {
			errs = append(errs, ErrSigner)
		}
	}
	if len(s.PCRs) != 0 {
		errs = append(errs, fmt.Errorf("%w: PCR values beside a certified key", ErrMalformed))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("quote: held key: %w", err)
	}
	return nil
}

// HeldKeys records which keys of an appliance are in its TPM, by the attestation key's own statements, as `tpm-keys.json`.
type HeldKeys struct {
	SRKPublic []byte                   `json:"srk_public"` // TPMT_PUBLIC
	Keys      map[string]HeldStatement `json:"keys"`       // by label
}

// HeldStatement is a key and the statement about it.
type HeldStatement struct {
	Public    []byte `json:"public"` // TPMT_PUBLIC
	Attest    []byte `json:"attest"`
	Signature []byte `json:"signature"`
}

// HeldQualifying is the qualifying data of the statement about a key: of what log, and what for.
func HeldQualifying(origin, label string) [sha256.Size]byte {
	return sha256.Sum256([]byte("signet/tpm-key@v1\n" + origin + "\n" + label + "\n"))
}

// ParseHeldKeys reads `tpm-keys.json`. Unknown and repeated fields, trailing data and more than 256 KiB are refused. It does not verify.
func ParseHeldKeys(data []byte) (HeldKeys, error) {
	if len(data) > maxHeld {
		return HeldKeys{}, fmt.Errorf("quote: held keys: %w: more than %d bytes", ErrMalformed, maxHeld)
	}
	if err := refuseRepeats(json.NewDecoder(bytes.NewReader(data))); err != nil {
		return HeldKeys{}, fmt.Errorf("quote: held keys: %w: %w", ErrMalformed, err)
	}
	var k HeldKeys
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&k); err != nil {
		return HeldKeys{}, fmt.Errorf("quote: held keys: %w: %w", ErrMalformed, err)
	}
	if len(k.Keys) == 0 {
		return HeldKeys{}, fmt.Errorf("quote: held keys: %w: no key", ErrMalformed)
	}
	return k, nil
}

// Verify checks each statement, for the log of that origin, and gives the keys by label. The error joins every failure.
func (k HeldKeys) Verify(ak *AK, origin string) (map[string]*HeldKey, error) {
	srk, err := ParseSRK(k.SRKPublic)
	if err != nil {
		return nil, fmt.Errorf("srk_public: %w", err)
	}
	out := make(map[string]*HeldKey, len(k.Keys))
	var errs []error
	for label, s := range k.Keys {
		key, err := ParseHeldKey(s.Public)
		if err == nil {
			q := HeldQualifying(origin, label)
			err = ak.VerifyHeld(Statement{Attest: s.Attest, Signature: s.Signature}, q[:], srk, key)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%q: %w", label, err))
			continue
		}
		out[label] = key
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return out, nil
}
