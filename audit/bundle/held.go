package bundle

import (
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/signet-pki/signet/tpm/quote"
)

// checkTPMKeys verifies the attestation key's statements about keys of the appliance, and that each is the key which its label says.
// Which keys are in a TPM is not pinned: a bundle without the file claims nothing.
func (v *verifier) checkTPMKeys(data []byte) error {
	held, err := quote.ParseHeldKeys(data)
	if err != nil {
		return err
	}
	if v.anchors.ak == nil {
		return errors.New("no attestation key to verify with")
	}
	keys, err := held.Verify(v.anchors.ak, v.anchors.origin)
	if err != nil {
		return err
	}
	var errs []error
	for label, key := range keys {
		if !v.isKeyOf(label, key.Public()) {
			errs = append(errs, fmt.Errorf("%q: the certified key is not the one that the log goes by", label))
		}
	}
	return errors.Join(errs...)
}

// isAuditKey compares with the log's later audit keys. One that the log does not know yet signs nothing in it.
func (v *verifier) isAuditKey(n uint64, key *ecdsa.PublicKey) bool {
	if v.anchors.keys == nil {
		return false
	}
	all := v.anchors.keys.All()
	return n > uint64(len(all)) || all[n-1].Public.Equal(key)
}

// isKeyOf compares with the anchors, entry 0 and the CAs' certificates, by the ceremony's labels.
func (v *verifier) isKeyOf(label string, key *ecdsa.PublicKey) bool {
	certifies := func(c *x509.Certificate) bool { return key.Equal(c.PublicKey) }
	switch label {
	case "root":
		return slices.ContainsFunc(v.anchors.roots, certifies)
	case "audit":
		return v.anchors.audit != nil && key.Equal(v.anchors.audit)
	case "jwt":
		return v.pins != nil && decode(v.pins.JWTKey, func(der []byte) error {
			jwt, err := parseSPKI(der)
			if err == nil && !key.Equal(jwt) {
				err = errors.New("another key")
			}
			return err
		}) == nil
	default:
		if n, ok := number(label, "audit-", ""); ok && n > 1 {
			return v.isAuditKey(n, key)
		}
		return slices.ContainsFunc(v.anchors.issuing, certifies)
	}
}
