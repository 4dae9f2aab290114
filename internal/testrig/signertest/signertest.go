// Package signertest is the conformance suite of every crypto.Signer that fronts a device: PKCS#11 keys, TPM keys
// and the fakes that stand in for them. It holds what the rest of the appliance relies on: a stable public key of a
// known kind, signatures that the standard library verifies, refusal of everything that is not a digest of the
// announced hash, and an error (no panic, no empty signature) once the device is closed.
//
// It knows ECDSA over P-256 and P-384, and Ed25519. Any other key is a failure.
package signertest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	_ "crypto/sha256" // SHA-256 for crypto.Hash.New
	_ "crypto/sha512" // SHA-384 and SHA-512 for crypto.Hash.New
	"math/big"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

const (
	goroutines = 32
	signsEach  = 8 // of each goroutine
)

type options struct {
	closed func(t *testing.T) crypto.Signer
}

// Option changes what Run demands.
type Option func(*options)

// Closed gives a signer whose device has been closed already: Sign must then return an error and no bytes, while
// Public keeps its answer. Every device has such a state, so implementations other than pure fakes should give it.
func Closed(open func(t *testing.T) crypto.Signer) Option {
	return func(o *options) { o.closed = open }
}

// Run holds the signer that open returns against the contract. It calls open once; the caller's open registers its
// own clean-up.
func Run(t *testing.T, open func(t *testing.T) crypto.Signer, opts ...Option) {
	t.Helper()
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	signer := open(t)
	if signer == nil {
		t.Fatal("open returned a nil signer")
	}
	t.Run("public key", func(t *testing.T) { testPublic(t, signer) })
	t.Run("signs", func(t *testing.T) { testSigns(t, signer) })
	t.Run("refuses", func(t *testing.T) { testRefuses(t, signer) })
	t.Run("concurrent", func(t *testing.T) { testConcurrent(t, signer) })
	t.Run("certificate", func(t *testing.T) { testCertificate(t, signer) })
	t.Run("TLS 1.3 server", func(t *testing.T) { testTLS(t, signer) })
	if o.closed != nil {
		t.Run("closed", func(t *testing.T) { testClosed(t, o.closed(t)) })
	}
}

// publicKey is what every public key of the standard library offers.
type publicKey interface {
	Equal(x crypto.PublicKey) bool
}

func testPublic(t *testing.T, signer crypto.Signer) {
	pub, ok := signer.Public().(publicKey)
	if !ok {
		t.Fatalf("public key is a %T, which cannot be compared", signer.Public())
	}
	if !pub.Equal(signer.Public()) {
		t.Fatal("two calls of Public return different keys")
	}
	switch key := signer.Public().(type) {
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() {
			t.Fatalf("curve %s is neither P-256 nor P-384", key.Curve.Params().Name)
		}
		if _, err := key.ECDH(); err != nil {
			t.Fatalf("public key is not a point of its curve: %v", err)
		}
	case ed25519.PublicKey:
		if len(key) != ed25519.PublicKeySize {
			t.Fatalf("Ed25519 public key of %d bytes", len(key))
		}
	default:
		t.Fatalf("public key is a %T, want *ecdsa.PublicKey or ed25519.PublicKey", key)
	}
}

// nativeHash is the hash that the key signs: 0 for Ed25519, which takes the message itself (RFC 8032).
func nativeHash(t *testing.T, signer crypto.Signer) crypto.Hash {
	t.Helper()
	switch key := signer.Public().(type) {
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P384() {
			return crypto.SHA384
		}
		return crypto.SHA256
	case ed25519.PublicKey:
		return crypto.Hash(0)
	default:
		t.Fatalf("public key is a %T", key)
		return 0
	}
}

func digest(h crypto.Hash, message []byte) []byte {
	if h == 0 {
		return message
	}
	w := h.New()
	w.Write(message)
	return w.Sum(nil)
}

func testSigns(t *testing.T, signer crypto.Signer) {
	h := nativeHash(t, signer)
	d := digest(h, []byte("conformance"))
	before := string(d)
	sig, err := signer.Sign(rand.Reader, d, h)
	if err != nil {
		t.Fatalf("sign with %v: %v", h, err)
	}
	if string(d) != before {
		t.Fatal("Sign changed its input")
	}
	verify(t, signer.Public(), d, sig)
	d = digest(h, []byte("no randomness given"))
	sig, err = signer.Sign(nil, d, h)
	if err != nil {
		t.Fatalf("sign with rand == nil: %v (the device has its own randomness)", err)
	}
	verify(t, signer.Public(), d, sig)
}

// verify reports with Errorf, so that goroutines other than the test's own may call it.
func verify(t *testing.T, public crypto.PublicKey, d, sig []byte) {
	t.Helper()
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		checkDER(t, key, sig)
		if !ecdsa.VerifyASN1(key, d, sig) {
			t.Error("the standard library refuses the signature")
		}
	case ed25519.PublicKey:
		if !ed25519.Verify(key, d, sig) {
			t.Error("the standard library refuses the signature")
		}
	default:
		t.Errorf("public key is a %T", key)
	}
}

// checkDER holds a signature against RFC 3279 §2.2.3: SEQUENCE { r INTEGER, s INTEGER }, nothing after it.
func checkDER(t *testing.T, key *ecdsa.PublicKey, sig []byte) {
	t.Helper()
	var inner cryptobyte.String
	r, s := new(big.Int), new(big.Int)
	input := cryptobyte.String(sig)
	if !input.ReadASN1(&inner, asn1.SEQUENCE) || !input.Empty() ||
		!inner.ReadASN1Integer(r) || !inner.ReadASN1Integer(s) || !inner.Empty() {
		t.Errorf("signature is not DER SEQUENCE{r, s}: %x", sig)
		return
	}
	n := key.Curve.Params().N
	if r.Sign() <= 0 || s.Sign() <= 0 || r.Cmp(n) >= 0 || s.Cmp(n) >= 0 {
		t.Error("r or s is outside 1..n-1")
	}
}
