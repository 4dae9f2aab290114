package lint

import "crypto/x509"

const (
	minSerialBits = 125 // 16 octets whose first is at least 0x10, so that hexadecimal text has one form
	maxSerialBits = 127 // top bit clear: the INTEGER is positive without a padding octet
)

func ruleSerial() rule {
	return rule{
		id: "serial", citation: "RFC 5280 §4.1.2.2; CA/B Forum BR §7.1", kinds: allKinds(),
		check: func(cert *x509.Certificate, _ Expect) string {
			n := cert.SerialNumber
			if n == nil || n.Sign() <= 0 {
				return "the serial is not positive"
			}
			if bits := n.BitLen(); bits < minSerialBits || bits > maxSerialBits {
				return "the serial is not 16 octets from 10 to 7f"
			}
			return ""
		},
	}
}
