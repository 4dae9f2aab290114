package chain

import (
	asn1oid "encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// ExtractTBS finds the delegation extension in a to-be-signed certificate (RFC 5280 §4.1) that the caller knows to be one
// of the appliance's own, and returns the extension's value, for Parse. It judges nothing else of the certificate.
func ExtractTBS(tbs []byte) ([]byte, error) {
	var body, wrapped, extensions cryptobyte.String
	s := cryptobyte.String(tbs)
	if !s.ReadASN1(&body, asn1.SEQUENCE) || !s.Empty() || !skipTo(&body, &wrapped) || !wrapped.ReadASN1(&extensions, asn1.SEQUENCE) {
		return nil, malformed(CodeDER, "", "is not a certificate to be signed")
	}
	oid := OID().String()
	for !extensions.Empty() {
		id, value, ok := readExtension(&extensions)
		if !ok {
			return nil, malformed(CodeDER, "", "has a malformed extension")
		}
		if id == oid {
			return value, nil
		}
	}
	return nil, ErrNoDelegation
}

// skipTo passes version, serial, algorithm, issuer, validity, subject and key, up to the extensions.
func skipTo(body, extensions *cryptobyte.String) bool {
	context := func(n uint8) asn1.Tag { return asn1.Tag(n).ContextSpecific().Constructed() }
	return body.SkipASN1(context(0)) && body.SkipASN1(asn1.INTEGER) &&
		body.SkipASN1(asn1.SEQUENCE) && body.SkipASN1(asn1.SEQUENCE) && body.SkipASN1(asn1.SEQUENCE) &&
		body.SkipASN1(asn1.SEQUENCE) && body.SkipASN1(asn1.SEQUENCE) &&
		body.ReadASN1(extensions, context(3)) && body.Empty()
}

func readExtension(s *cryptobyte.String) (id string, value []byte, ok bool) {
	var ext, v cryptobyte.String
	var oid asn1oid.ObjectIdentifier
	ok = s.ReadASN1(&ext, asn1.SEQUENCE) && ext.ReadASN1ObjectIdentifier(&oid) &&
		ext.SkipOptionalASN1(asn1.BOOLEAN) && ext.ReadASN1(&v, asn1.OCTET_STRING) && ext.Empty()
	return oid.String(), v, ok
}
