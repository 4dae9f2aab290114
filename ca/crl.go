package ca

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/signet-pki/signet/ca/lint"
)

// maxRevoked bounds a CRL: some forty octets each, signed and served whole.
const maxRevoked = 1 << 20

// CRL signs a list of the revoked certificates of this issuer: DER, version 2 (RFC 5280 §5). number must grow from one
// list to the next; next is the moment by which a newer one will be out. Entries of expired certificates may be left
// out by the caller.
func (i *Issuer) CRL(ctx context.Context, entries []x509.RevocationListEntry, number *big.Int, now, next time.Time) ([]byte, error) {
	switch {
	case number == nil || number.Sign() <= 0:
		return nil, errors.New("ca: CRL: the number is not positive")
	case !next.After(now):
		return nil, errors.New("ca: CRL: next update is not after this one")
	case now.Before(i.from) || now.After(i.to):
		return nil, fmt.Errorf("ca: CRL: %w", ErrOutside)
	case len(entries) > maxRevoked:
		return nil, fmt.Errorf("ca: CRL: %w", ErrTooLarge)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("ca: CRL: %w", err)
	}
	template := &x509.RevocationList{
		SignatureAlgorithm: lint.SignatureAlgorithm(i.cert), RevokedCertificateEntries: entries, Number: number,
		ThisUpdate: now.UTC().Truncate(time.Second), NextUpdate: next.UTC().Truncate(time.Second),
	}
	// It verifies the signature before it returns (crypto/x509 signTBS).
	der, err := x509.CreateRevocationList(rand.Reader, template, i.cert, within{Signer: i.signer, ctx: ctx})
	if err != nil {
		return nil, fmt.Errorf("ca: CRL: %w", err)
	}
	return der, nil
}
