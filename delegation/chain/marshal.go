package chain

import (
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

const (
	version                  = 1
	timeLayout               = "20060102150405Z" // RFC 5280 §4.1.2.5.2
	confirmationTag asn1.Tag = 0x80              // [0], primitive
)

// Marshal writes the extension's DER. The error is a *FormatError; nothing is truncated, rounded or left out.
func (d Delegation) Marshal() ([]byte, error) {
	if err := d.validate(); err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(version)
		b.AddASN1OctetString(d.TaskID[:])
		b.AddASN1(asn1.SEQUENCE, d.Grant.add)
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for i := range d.Hops {
				b.AddASN1(asn1.SEQUENCE, d.Hops[i].add)
			}
		})
	})
	der, err := b.Bytes()
	if err != nil {
		return nil, malformed(CodeDER, "", "%v", err)
	}
	if len(der) > MaxExtensionBytes {
		return nil, malformed(CodeExtensionTooLarge, "", "%d bytes; at most %d are allowed", len(der), MaxExtensionBytes)
	}
	return der, nil
}

func (g *Grant) add(b *cryptobyte.Builder) {
	addText(b, g.Issuer)
	addText(b, g.Subject)
	b.AddASN1OctetString(g.GrantID[:])
	b.AddASN1Enum(int64(g.Consent))
	b.AddASN1OctetString(g.EvidenceHash[:])
	addLimits(b, g.Scope, g.NotAfter, g.MaxDepth)
}

func (h *Hop) add(b *cryptobyte.Builder) {
	addText(b, h.ID)
	b.AddASN1OctetString(h.SPKIHash[:])
	addLimits(b, h.Scope, h.NotAfter, h.MaxDepth)
	if h.Confirmation != nil {
		// IMPLICIT, as the module says.
		b.AddASN1(confirmationTag, func(b *cryptobyte.Builder) { b.AddBytes(h.Confirmation[:]) })
	}
}

func addText(b *cryptobyte.Builder, s string) {
	b.AddASN1(asn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
}

func addLimits(b *cryptobyte.Builder, s Scope, notAfter time.Time, depth int) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, t := range s {
			addText(b, t.text)
		}
	})
	b.AddASN1GeneralizedTime(notAfter.UTC())
	b.AddASN1Int64(int64(depth))
}
