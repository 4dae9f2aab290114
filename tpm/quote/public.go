package quote

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
)

// TPM_ALG_ID and TPM_ECC_CURVE values (Part 2, 6.3 and 6.4).
const (
	algRSA   = 0x0001
	algNull  = 0x0010
	algECDSA = 0x0018
	algECC   = 0x0023

	curveP256 = 0x0003
	curveP384 = 0x0004
)

// TPMA_OBJECT bits (Part 2, 8.3).
const (
	attrFixedTPM            = 1 << 1
	attrFixedParent         = 1 << 4
	attrSensitiveDataOrigin = 1 << 5
	attrRestricted          = 1 << 16
	attrDecrypt             = 1 << 17
	attrSign                = 1 << 18
	attrX509Sign            = 1 << 19
)

const maxPublic = 1024

// handleEndorsement is TPM_RH_ENDORSEMENT (Part 2, 7.4).
const handleEndorsement = 0x4000000b

// AK is an attestation key's public area: proof, by its attributes, that the key signs only what its TPM made itself. That the
// public area is a real TPM's is another matter: see [Binding].
type AK struct {
	public []byte // TPMT_PUBLIC
	key    *ecdsa.PublicKey
}

// ParseAK reads a TPMT_PUBLIC, or a TPM2B_PUBLIC around one, and refuses with [ErrKey] anything but a restricted ECC P-256
// signing key with scheme ECDSA-SHA256 that was made inside a TPM and can never leave it.
func ParseAK(public []byte) (*AK, error) {
	p, err := parsePublic(public)
	if err != nil {
		return nil, fmt.Errorf("quote: attestation key: %w", err)
	}
	if err := p.checkAK(); err != nil {
		return nil, fmt.Errorf("quote: attestation key: %w", err)
	}
	key, ok := p.key.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("quote: attestation key: %w: not ECC", ErrKey)
	}
	return &AK{public: p.raw, key: key}, nil
}

// Public is the verification key. The caller must not change it.
func (a *AK) Public() *ecdsa.PublicKey { return a.key }

// Marshal is the TPMT_PUBLIC.
func (a *AK) Marshal() []byte { return bytes.Clone(a.public) }

// Name is the key's TPM name: the algorithm identifier of SHA-256 and the digest of the public area, 34 bytes.
func (a *AK) Name() []byte { return name(a.public) }

// QualifiedName is the name that statements carry as their signer if the key is a primary key of the endorsement hierarchy
// (Part 1, 26.5). Only keys of that hierarchy state resetCount and firmware version in clear (Part 2, 10.12.8).
func (a *AK) QualifiedName() []byte {
	return name(append(binary.BigEndian.AppendUint32(nil, handleEndorsement), a.Name()...))
}

// VerifyQuote is [VerifyQuote] and also checks, with [ErrSigner], that the key stands in the endorsement hierarchy.
func (a *AK) VerifyQuote(s Statement, qualifying []byte, sel Selection) (Quote, error) {
	q, err := VerifyQuote(a.key, s, qualifying, sel)
	if err != nil {
		return Quote{}, err
	}
	if !bytes.Equal(q.QualifiedSigner, a.QualifiedName()) {
		return Quote{}, fmt.Errorf("quote: %w", ErrSigner)
	}
	return q, nil
}

// VerifyCounter is [VerifyCounter] and also checks, with [ErrSigner], that the key stands in the endorsement hierarchy.
func (a *AK) VerifyCounter(s Statement, qualifying, nvName []byte) (Counter, error) {
	c, err := VerifyCounter(a.key, s, qualifying, nvName)
	if err != nil {
		return Counter{}, err
	}
	if !bytes.Equal(c.QualifiedSigner, a.QualifiedName()) {
		return Counter{}, fmt.Errorf("quote: counter: %w", ErrSigner)
	}
	return c, nil
}

// publicArea is a parsed TPMT_PUBLIC (Part 2, 12.2.4) of an RSA or elliptic curve key.
type publicArea struct {
	raw     []byte
	kind    uint16
	nameAlg uint16
	attrs   uint32
	// For a restricted decryption key: its cipher, else algNull.
	symmetric uint16
	scheme    uint16
	hash      uint16 // of scheme
	curve     uint16
	key       crypto.PublicKey
}

func parsePublic(data []byte) (publicArea, error) {
	if len(data) > maxPublic {
		return publicArea{}, fmt.Errorf("%w public area: %d bytes, at most %d", ErrMalformed, len(data), maxPublic)
	}
	if len(data) > 2 && int(binary.BigEndian.Uint16(data)) == len(data)-2 {
		data = data[2:] // TPM2B_PUBLIC
	}
	p, s := publicArea{raw: bytes.Clone(data)}, cryptobyte.String(data)
	var policy []byte
	if !s.ReadUint16(&p.kind) || !s.ReadUint16(&p.nameAlg) || !s.ReadUint32(&p.attrs) || !read2B(&s, &policy) ||
		!p.readSymmetric(&s) || !p.readScheme(&s) {
		return publicArea{}, fmt.Errorf("%w public area: cut short", ErrMalformed)
	}
	if err := p.readKey(&s); err != nil {
		return publicArea{}, err
	}
	if !s.Empty() {
		return publicArea{}, fmt.Errorf("%w public area: followed by %d bytes", ErrMalformed, len(s))
	}
	return p, nil
}

// readSymmetric reads a TPMT_SYM_DEF_OBJECT; each algorithm but NULL is followed by key size and mode.
func (p *publicArea) readSymmetric(s *cryptobyte.String) bool {
	return s.ReadUint16(&p.symmetric) && (p.symmetric == algNull || s.Skip(4))
}

// readScheme reads a TPMT_ASYM_SCHEME. Of the schemes only those with exactly a hash as detail are understood.
func (p *publicArea) readScheme(s *cryptobyte.String) bool {
	return s.ReadUint16(&p.scheme) && (p.scheme == algNull || s.ReadUint16(&p.hash))
}

func (p *publicArea) readKey(s *cryptobyte.String) error {
	switch p.kind {
	case algECC:
		return p.readECC(s)
	case algRSA:
		return p.readRSA(s)
	default:
		return fmt.Errorf("%w: type %#04x is neither ECC nor RSA", ErrKey, p.kind)
	}
}

func (p *publicArea) readECC(s *cryptobyte.String) error {
	var kdf uint16
	var x, y []byte
	if !s.ReadUint16(&p.curve) || !s.ReadUint16(&kdf) || (kdf != algNull && !s.Skip(2)) || !read2B(s, &x) || !read2B(s, &y) {
		return fmt.Errorf("%w public area: ECC part is cut short", ErrMalformed)
	}
	key, err := point(p.curve, x, y)
	if err != nil {
		return err
	}
	p.key = key
	return nil
}

// point pads coordinates, since some TPMs strip leading zeros, and refuses what is not on the curve.
func point(curve uint16, x, y []byte) (*ecdsa.PublicKey, error) {
	var c elliptic.Curve
	switch curve {
	case curveP256:
		c = elliptic.P256()
	case curveP384:
		c = elliptic.P384()
	default:
		return nil, fmt.Errorf("%w: curve %#04x is neither P-256 nor P-384", ErrKey, curve)
	}
	size := (c.Params().BitSize + 7) / 8
	if len(x) > size || len(y) > size {
		return nil, fmt.Errorf("%w public area: coordinate is longer than %d bytes", ErrMalformed, size)
	}
	encoded := make([]byte, 1+2*size)
	encoded[0] = 4 // uncompressed (SEC 1, 2.3.3)
	copy(encoded[1+size-len(x):], x)
	copy(encoded[1+2*size-len(y):], y)
	key, err := ecdsa.ParseUncompressedPublicKey(c, encoded)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return key, nil
}

func (p *publicArea) readRSA(s *cryptobyte.String) error {
	var bits uint16
	var exponent uint32
	var modulus []byte
	if !s.ReadUint16(&bits) || !s.ReadUint32(&exponent) || !read2B(s, &modulus) {
		return fmt.Errorf("%w public area: RSA part is cut short", ErrMalformed)
	}
	if exponent == 0 {
		exponent = 65537 // Part 2, 12.2.3.5
	}
	n := new(big.Int).SetBytes(modulus)
	if bits < 2048 || bits > 4096 || n.BitLen() != int(bits) || exponent < 3 || exponent > 1<<31-1 {
		return fmt.Errorf("%w: RSA modulus or exponent out of range", ErrKey)
	}
	p.key = &rsa.PublicKey{N: n, E: int(exponent)}
	return nil
}

// checkAK reports every property that disqualifies p as an attestation key.
func (p *publicArea) checkAK() error {
	var errs []error
	refuse := func(bad bool, why string) {
		if bad {
			errs = append(errs, fmt.Errorf("%w: %s", ErrKey, why))
		}
	}
	refuse(p.kind != algECC || p.curve != curveP256, "not ECC P-256")
	refuse(p.nameAlg != algSHA256, "name algorithm is not SHA-256")
	refuse(p.attrs&attrRestricted == 0, "not restricted: it signs forged statements")
	refuse(p.attrs&attrSign == 0, "not a signing key")
	refuse(p.attrs&(attrDecrypt|attrX509Sign) != 0, "may do more than sign statements")
	refuse(p.attrs&attrFixedTPM == 0, "not fixedTPM: it can leave the TPM")
	refuse(p.attrs&attrFixedParent == 0, "not fixedParent: it can leave the TPM")
	refuse(p.attrs&attrSensitiveDataOrigin == 0, "not sensitiveDataOrigin: it was imported")
	refuse(p.scheme != algECDSA || p.hash != algSHA256, "scheme is not ECDSA-SHA256")
	refuse(p.symmetric != algNull, "has a symmetric cipher")
	return errors.Join(errs...)
}

// checkEK reports every property that disqualifies p as an endorsement key.
func (p *publicArea) checkEK() error {
	const must = attrFixedTPM | attrFixedParent | attrSensitiveDataOrigin | attrRestricted | attrDecrypt
	if p.attrs&(must|attrSign) != must {
		return fmt.Errorf("%w: attributes %#08x are not those of a restricted decryption key of one TPM", ErrKey, p.attrs)
	}
	return nil
}

// name computes the SHA-256 TPM name of a public area (Part 1, 16).
func name(public []byte) []byte {
	digest := sha256.Sum256(public)
	return append([]byte{algSHA256 >> 8, algSHA256 & 0xff}, digest[:]...)
}
