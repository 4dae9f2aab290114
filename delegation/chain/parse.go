package chain

import (
	"crypto/x509"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Extract parses the delegation of a certificate. Errors are *FormatError: ErrNoDelegation, ErrDuplicate, ErrCritical, or Parse's.
func Extract(cert *x509.Certificate) (Delegation, error) {
	var der []byte
	oid, found := OID(), false
	for i := range cert.Extensions {
		ext := &cert.Extensions[i]
		if !ext.Id.Equal(oid) {
			continue
		}
		if found {
			return Delegation{}, ErrDuplicate
		}
		if ext.Critical {
			return Delegation{}, ErrCritical
		}
		der, found = ext.Value, true
	}
	if !found {
		return Delegation{}, ErrNoDelegation
	}
	return Parse(der)
}

// Parse reads the extension's DER and nothing else: the bytes it accepts are exactly those that Marshal writes. The error is a *FormatError.
func Parse(der []byte) (Delegation, error) {
	if len(der) > MaxExtensionBytes {
		return Delegation{}, malformed(CodeExtensionTooLarge, "", "%d bytes; at most %d are allowed", len(der), MaxExtensionBytes)
	}
	input := cryptobyte.String(der)
	var body cryptobyte.String
	if !input.ReadASN1(&body, asn1.SEQUENCE) {
		return Delegation{}, malformed(CodeDER, "", "is not a DER SEQUENCE")
	}
	if !input.Empty() {
		return Delegation{}, malformed(CodeDERTrailing, "", "%d bytes after the end", len(input))
	}
	d, err := readDelegation(&body)
	if err != nil {
		return Delegation{}, err
	}
	if err := d.validate(); err != nil {
		return Delegation{}, err
	}
	return d, nil
}

func readDelegation(s *cryptobyte.String) (d Delegation, err error) {
	v, err := readInteger(s, "version")
	if err != nil {
		return d, err
	}
	if v != version {
		// Nothing after an unknown version may be interpreted.
		return d, malformed(CodeVersion, "version", "%d is not known", v)
	}
	if err := readOctets(s, d.TaskID[:], asn1.OCTET_STRING, CodeIdentifier, "taskId"); err != nil {
		return d, err
	}
	var grant, hops cryptobyte.String
	if !s.ReadASN1(&grant, asn1.SEQUENCE) {
		return d, malformed(CodeDER, "grant", "is not a DER SEQUENCE")
	}
	if err := d.Grant.read(&grant); err != nil {
		return d, within("grant", err)
	}
	if !s.ReadASN1(&hops, asn1.SEQUENCE) {
		return d, malformed(CodeDER, "hops", "is not a DER SEQUENCE")
	}
	if !s.Empty() {
		return d, malformed(CodeDERTrailing, "hops", "something follows")
	}
	d.Hops, err = readHops(&hops)
	return d, err
}

func (g *Grant) read(s *cryptobyte.String) (err error) {
	if g.Issuer, err = readText(s, "issuer"); err != nil {
		return err
	}
	if g.Subject, err = readText(s, "subject"); err != nil {
		return err
	}
	if err := readOctets(s, g.GrantID[:], asn1.OCTET_STRING, CodeIdentifier, "grantId"); err != nil {
		return err
	}
	var consent int
	if !s.ReadASN1Enum(&consent) {
		return malformed(CodeDER, "consentType", "is not a DER ENUMERATED")
	}
	g.Consent = ConsentType(consent)
	if err := readOctets(s, g.EvidenceHash[:], asn1.OCTET_STRING, CodeHash, "evidenceHash"); err != nil {
		return err
	}
	if g.Scope, g.NotAfter, g.MaxDepth, err = readLimits(s); err != nil {
		return err
	}
	if !s.Empty() {
		return malformed(CodeDERTrailing, "maxDepth", "something follows")
	}
	return nil
}

func readHops(s *cryptobyte.String) ([]Hop, error) {
	hops := make([]Hop, 0, 4)
	for i := 0; !s.Empty(); i++ {
		if i == MaxHops {
			return nil, malformed(CodeHopCount, "hops", "more than %d", MaxHops)
		}
		var body cryptobyte.String
		if !s.ReadASN1(&body, asn1.SEQUENCE) {
			return nil, withinHop(i, malformed(CodeDER, "", "is not a DER SEQUENCE"))
		}
		hops = append(hops, Hop{})
		if err := hops[i].read(&body); err != nil {
			return nil, withinHop(i, err)
		}
	}
	return hops, nil
}

func (h *Hop) read(s *cryptobyte.String) (err error) {
	if h.ID, err = readText(s, "id"); err != nil {
		return err
	}
	if err := readOctets(s, h.SPKIHash[:], asn1.OCTET_STRING, CodeHash, "spkiHash"); err != nil {
		return err
	}
	if h.Scope, h.NotAfter, h.MaxDepth, err = readLimits(s); err != nil {
		return err
	}
	if s.PeekASN1Tag(confirmationTag) {
		h.Confirmation = new([32]byte)
		if err := readOctets(s, h.Confirmation[:], confirmationTag, CodeHash, "confirmationHash"); err != nil {
			return err
		}
	}
	if !s.Empty() {
		return malformed(CodeDERTrailing, "confirmationHash", "something else stands in its place or follows")
	}
	return nil
}

func readLimits(s *cryptobyte.String) (scope Scope, notAfter time.Time, depth int, err error) {
	if scope, err = readScope(s); err != nil {
		return nil, time.Time{}, 0, err
	}
	if notAfter, err = readTime(s, "notAfter"); err != nil {
		return nil, time.Time{}, 0, err
	}
	depth, err = readInteger(s, "maxDepth")
	return scope, notAfter, depth, err
}

// readScope leaves the whole's rules (count, duplicates) to validate.
func readScope(s *cryptobyte.String) (Scope, error) {
	var body cryptobyte.String
	if !s.ReadASN1(&body, asn1.SEQUENCE) {
		return nil, malformed(CodeDER, "scope", "is not a DER SEQUENCE")
	}
	scope := make(Scope, 0, 4)
	for !body.Empty() {
		if len(scope) == MaxTokens {
			return nil, malformed(CodeScope, "scope", "more than %d tokens", MaxTokens)
		}
		text, err := readText(&body, "scope")
		if err != nil {
			return nil, err
		}
		t, err := ParseToken(text)
		if err != nil {
			return nil, malformed(CodeScope, "scope", "%v", err)
		}
		scope = append(scope, t)
	}
	return scope, nil
}

func readText(s *cryptobyte.String, field string) (string, error) {
	var text cryptobyte.String
	if !s.ReadASN1(&text, asn1.UTF8String) {
		return "", malformed(CodeDER, field, "is not a DER UTF8String")
	}
	return string(text), nil
}

func readOctets(s *cryptobyte.String, out []byte, tag asn1.Tag, code, field string) error {
	var octets cryptobyte.String
	if !s.ReadASN1(&octets, tag) {
		return malformed(CodeDER, field, "is not a DER OCTET STRING")
	}
	if len(octets) != len(out) {
		return malformed(code, field, "%d bytes; %d expected", len(octets), len(out))
	}
	copy(out, octets)
	return nil
}

// readInteger accepts minimal INTEGERs of one octet: no integer of the format has more.
func readInteger(s *cryptobyte.String, field string) (int, error) {
	var octets cryptobyte.String
	if !s.ReadASN1(&octets, asn1.INTEGER) {
		return 0, malformed(CodeDER, field, "is not a DER INTEGER")
	}
	if len(octets) != 1 {
		return 0, malformed(CodeDERInteger, field, "is not minimal or out of range")
	}
	return int(int8(octets[0])), nil //nolint:gosec // two's complement is meant (X.690 §8.3)
}

// readTime accepts YYYYMMDDHHMMSSZ only: no fraction, no offset (X.690 §11.7, RFC 5280 §4.1.2.5.2).
func readTime(s *cryptobyte.String, field string) (time.Time, error) {
	var text cryptobyte.String
	if !s.ReadASN1(&text, asn1.GeneralizedTime) {
		return time.Time{}, malformed(CodeDER, field, "is not a DER GeneralizedTime")
	}
	t, err := time.Parse(timeLayout, string(text))
	if err != nil || t.Format(timeLayout) != string(text) {
		return time.Time{}, malformed(CodeTime, field, "is not of the form YYYYMMDDHHMMSSZ")
	}
	return t, nil
}
