package ca

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Certificate is an issued certificate.
type Certificate struct {
	DER  []byte
	Leaf *x509.Certificate
	// Chain is the leaf and the CAs above it, DER, without the root. The CAs' bytes are shared: do not change them.
	Chain [][]byte
}

// Issue has exactly the prepared bytes signed and releases the certificate only if the signature verifies and the
// result reads back as those bytes. It uses up p, also when it fails; only a ctx that was over beforehand and a p of
// another issuer leave it unused. After a failure the same bytes may be tried again by way of [Issuer.Resume].
func (i *Issuer) Issue(ctx context.Context, p *Prepared) (*Certificate, error) {
	if p == nil || p.issuer != i {
		return nil, ErrForeign
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("ca: issue: %w", err)
	}
	if !p.used.CompareAndSwap(false, true) {
		return nil, ErrUsed
	}
	signature, err := i.sign(ctx, p.digest)
	if err != nil {
		return nil, fmt.Errorf("ca: issue: %w", err)
	}
	der, err := wrap(p.tbs, i.fixed.algorithm, signature)
	if err != nil {
		return nil, fmt.Errorf("ca: issue: %w", err)
	}
	leaf, err := readBack(der, p)
	if err != nil {
		return nil, fmt.Errorf("ca: issue: %w", err)
	}
	return &Certificate{DER: der, Leaf: leaf, Chain: append([][]byte{der}, i.chain...)}, nil
}

// sign returns a verified signature as an encoded BIT STRING.
func (i *Issuer) sign(ctx context.Context, digest []byte) ([]byte, error) {
	signature, err := signDigest(ctx, i.signer, digest, i.hash)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	if !isECDSASignature(signature) {
		return nil, fmt.Errorf("%w: it is not an ECDSA-Sig-Value", ErrSignature)
	}
	if !i.verified && !ecdsa.VerifyASN1(i.key, digest, signature) {
		return nil, ErrSignature
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, len(signature)+4))
	b.AddASN1BitString(signature)
	return b.Bytes()
}

// isECDSASignature is a check of form (RFC 3279 §2.2.3), which also bounds what an unverified signer could add.
func isECDSASignature(sig []byte) bool {
	s := cryptobyte.String(sig)
	var body, r, t cryptobyte.String
	return s.ReadASN1(&body, asn1.SEQUENCE) && s.Empty() &&
		body.ReadASN1(&r, asn1.INTEGER) && body.ReadASN1(&t, asn1.INTEGER) && body.Empty() &&
		len(r) > 0 && len(t) > 0
}

func readBack(der []byte, p *Prepared) (*x509.Certificate, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read back: %w", err)
	}
	if !bytes.Equal(leaf.RawTBSCertificate, p.tbs) || !bytes.Equal(leaf.Raw, der) {
		return nil, fmt.Errorf("read back: %w: the bytes differ from those prepared", ErrSignature)
	}
	return leaf, nil
}
