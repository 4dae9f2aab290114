package hsm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"fmt"
	"math/big"

	"github.com/miekg/pkcs11"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Algorithm is a kind of signing key. The zero value is none.
type Algorithm uint8

// The kinds of key that the appliance uses.
const (
	P256    Algorithm = iota + 1 // ECDSA with SHA-256
	P384                         // ECDSA with SHA-384
	Ed25519                      // pure Ed25519, RFC 8032
)

// Values of PKCS #11 v3.0 that the v2.40 bindings lack.
const (
	ckkECEdwards          = 0x40
	ckmECEdwardsKeyPairGn = 0x1055
	ckmEdDSA              = 0x1057
)

// publicKey is what every public key of the standard library offers.
type publicKey interface {
	Equal(x crypto.PublicKey) bool
}

func (a Algorithm) String() string {
	switch a {
	case P256:
		return "P-256"
	case P384:
		return "P-384"
	case Ed25519:
		return "Ed25519"
	default:
		return fmt.Sprintf("Algorithm(%d)", uint8(a))
	}
}

func (a Algorithm) keyType() uint {
	if a == Ed25519 {
		return ckkECEdwards
	}
	return pkcs11.CKK_EC
}

func (a Algorithm) mechanism() uint {
	if a == Ed25519 {
		return ckmEdDSA
	}
	return pkcs11.CKM_ECDSA
}

func (a Algorithm) generation() uint {
	if a == Ed25519 {
		return ckmECEdwardsKeyPairGn
	}
	return pkcs11.CKM_EC_KEY_PAIR_GEN
}

// hash is what a signature is made over; 0 for Ed25519, which takes the message.
func (a Algorithm) hash() crypto.Hash {
	switch a {
	case P256:
		return crypto.SHA256
	case P384:
		return crypto.SHA384
	default:
		return 0
	}
}

func (a Algorithm) curve() elliptic.Curve {
	if a == P384 {
		return elliptic.P384()
	}
	return elliptic.P256()
}

// CKA_EC_PARAMS: a curve's OID (RFC 5480 §2.1.1.1), or for Edwards curves its name as PrintableString (PKCS #11 v3.0
// §2.3.5) or OID (RFC 8410 §3).
var (
	paramsP256        = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}
	paramsP384        = []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22}
	paramsEd25519     = append([]byte{0x13, 0x0c}, "edwards25519"...)
	paramsEd25519OID  = []byte{0x06, 0x03, 0x2b, 0x65, 0x70}
	maxCertificateDER = 64 << 10
)

// params is CKA_EC_PARAMS of a key to be made.
func (a Algorithm) params() []byte {
	switch a {
	case P384:
		return paramsP384
	case Ed25519:
		return paramsEd25519
	default:
		return paramsP256
	}
}

// parsePublic reads a public key's attributes: exact parameters, and for the point a DER OCTET STRING that holds one
// uncompressed point of the curve (PKCS #11 v2.40 §2.3.3) and nothing else.
func parsePublic(params, point []byte) (Algorithm, publicKey, error) {
	var raw cryptobyte.String
	input := cryptobyte.String(point)
	if !input.ReadASN1(&raw, asn1.OCTET_STRING) || !input.Empty() {
		return 0, nil, fmt.Errorf("%w: CKA_EC_POINT is not a DER OCTET STRING", ErrUnsupported)
	}
	switch {
	case bytes.Equal(params, paramsP256):
		return parsePoint(P256, raw)
	case bytes.Equal(params, paramsP384):
		return parsePoint(P384, raw)
	case bytes.Equal(params, paramsEd25519), bytes.Equal(params, paramsEd25519OID):
		if len(raw) != ed25519.PublicKeySize {
			return 0, nil, fmt.Errorf("%w: Ed25519 point of %d bytes", ErrUnsupported, len(raw))
		}
		return Ed25519, ed25519.PublicKey(bytes.Clone(raw)), nil
	default:
		return 0, nil, fmt.Errorf("%w: CKA_EC_PARAMS %x is not P-256, P-384 or Ed25519", ErrUnsupported, params)
	}
}

func parsePoint(a Algorithm, raw []byte) (Algorithm, publicKey, error) {
	key, err := ecdsa.ParseUncompressedPublicKey(a.curve(), raw)
	if err != nil {
		return 0, nil, fmt.Errorf("%w: CKA_EC_POINT: %w", ErrUnsupported, err)
	}
	return a, key, nil
}

func parseCertificate(der []byte) (Algorithm, publicKey, error) {
	if len(der) > maxCertificateDER {
		return 0, nil, fmt.Errorf("%w: certificate of %d bytes", ErrUnsupported, len(der))
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return 0, nil, fmt.Errorf("certificate beside the key: %w", err)
	}
	return algorithmOf(cert.PublicKey)
}

func algorithmOf(public crypto.PublicKey) (Algorithm, publicKey, error) {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256():
			return P256, key, nil
		case elliptic.P384():
			return P384, key, nil
		}
	case ed25519.PublicKey:
		return Ed25519, key, nil
	}
	return 0, nil, fmt.Errorf("%w: the public key is a %T", ErrUnsupported, public)
}

// finish turns what the module returned into a signature that the standard library knows, and proves it. Nothing
// that does not verify leaves this package.
func finish(a Algorithm, public publicKey, digest, raw []byte) ([]byte, error) {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		sig, err := encodeECDSA(a, raw)
		if err != nil {
			return nil, err
		}
		if !ecdsa.VerifyASN1(key, digest, sig) {
			return nil, ErrBadSignature
		}
		return sig, nil
	case ed25519.PublicKey:
		if len(raw) != ed25519.SignatureSize || !ed25519.Verify(key, digest, raw) {
			return nil, ErrBadSignature
		}
		return bytes.Clone(raw), nil
	default:
		return nil, fmt.Errorf("%w: %v", ErrUnsupported, a)
	}
}

// encodeECDSA makes DER (RFC 3279 §2.2.3) of r and s side by side, each as long as the group's order (PKCS #11 v2.40
// §2.3.1).
func encodeECDSA(a Algorithm, raw []byte) ([]byte, error) {
	size := (a.curve().Params().N.BitLen() + 7) / 8
	if len(raw) != 2*size {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrBadSignature, len(raw), 2*size)
	}
	r, s := new(big.Int).SetBytes(raw[:size]), new(big.Int).SetBytes(raw[size:])
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(r)
		b.AddASN1BigInt(s)
	})
	return b.Bytes()
}
