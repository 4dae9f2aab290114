package quote

import (
	"bytes"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// VerifyCertify checks that s is a TPM2_Certify, signed by the attestation key, of the key whose public area (TPMT_PUBLIC or
// TPM2B_PUBLIC) is given, with qualifying as its qualifying data; and that this key is an ECC P-256 signing key that was made in
// the TPM and can never leave it. It gives the key. The error joins every check that failed.
//
// What it proves is that one TPM holds both keys. Which TPM that is, a credential activation tells about the attestation key.
func (a *AK) VerifyCertify(s Statement, qualifying, public []byte) (*ecdsa.PublicKey, error) {
	att, err := parseAttest(s.Attest)
	if err != nil {
		return nil, fmt.Errorf("quote: certify: %w", err)
	}
	p, err := parsePublic(public)
	if err != nil {
		return nil, fmt.Errorf("quote: certified key: %w", err)
	}
	errs := []error{att.check(typeCertify, qualifying), verifySignature(a.key, s), p.checkSigning(curveP256)}
	if att.kind == typeCertify && !bytes.Equal(att.certified, name(p.raw)) {
		errs = append(errs, fmt.Errorf("%w: of the certified key", ErrName))
	}
	if len(s.PCRs) != 0 {
		errs = append(errs, fmt.Errorf("%w: PCR values beside a certified key", ErrMalformed))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("quote: certify: %w", err)
	}
	key, ok := p.key.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("quote: certify: %w: not ECC", ErrKey)
	}
	return key, nil
}

// checkSigning reports every property that disqualifies p as a key of certificates and TLS on one of these curves.
func (p *publicArea) checkSigning(curves ...uint16) error {
	var errs []error
	refuse := func(bad bool, why string) {
		if bad {
			errs = append(errs, fmt.Errorf("%w: certified key: %s", ErrKey, why))
		}
	}
	refuse(p.kind != algECC || !slices.Contains(curves, p.curve), "not ECC "+curveNames(curves))
	refuse(p.nameAlg != algSHA256, "name algorithm is not SHA-256")
	refuse(p.attrs&attrSign == 0, "not a signing key")
	refuse(p.attrs&attrRestricted != 0, "restricted: it signs only what the TPM made")
	refuse(p.attrs&attrDecrypt != 0, "may decrypt too")
	refuse(p.attrs&attrFixedTPM == 0, "not fixedTPM: it can leave the TPM")
	refuse(p.attrs&attrFixedParent == 0, "not fixedParent: it can leave the TPM")
	refuse(p.attrs&attrSensitiveDataOrigin == 0, "not sensitiveDataOrigin: it was imported")
	return errors.Join(errs...)
}

func curveNames(curves []uint16) string {
	var names []string
	for _, c := range curves {
		names = append(names, map[uint16]string{curveP256: "P-256", curveP384: "P-384"}[c])
	}
	return strings.Join(names, " or ")
}
