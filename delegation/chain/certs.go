package chain

import (
	"bytes"
	"crypto/x509"
	"fmt"
)

// ParsePEM reads 1 to limit certificates, leaf first, from PEM blocks with nothing but white space around them. A limit
// below one or above MaxChain means MaxChain.
func ParsePEM(data []byte, limit int) ([]*x509.Certificate, error) {
	limit = chainLimit(limit)
	// Base64 and its lines take less than half as much again.
	if len(data) > limit*MaxCertificateBytes*3/2 {
		return nil, fmt.Errorf("%w: %d bytes of PEM", ErrCertificates, len(data))
	}
	var ders [][]byte
	for rest := bytes.TrimLeft(data, " \t\r\n"); len(rest) > 0; {
		if len(ders) == limit {
			return nil, fmt.Errorf("%w: more than %d certificates", ErrCertificates, limit)
		}
		der, next, err := nextBlock(rest, "CERTIFICATE")
		if err != nil {
			return nil, fmt.Errorf("%w: certificate %d: %w", ErrCertificates, len(ders), err)
		}
		ders, rest = append(ders, der), next
	}
	return ParseDER(ders, limit)
}

// ParseDER reads 1 to limit certificates, leaf first, as TLS gives them. The limit is that of ParsePEM.
func ParseDER(ders [][]byte, limit int) ([]*x509.Certificate, error) {
	limit = chainLimit(limit)
	if len(ders) == 0 || len(ders) > limit {
		return nil, fmt.Errorf("%w: %d certificates; 1 to %d are allowed", ErrCertificates, len(ders), limit)
	}
	certs := make([]*x509.Certificate, len(ders))
	for i, der := range ders {
		if len(der) > MaxCertificateBytes {
			return nil, fmt.Errorf("%w: certificate %d has %d bytes; at most %d are allowed", ErrCertificates, i, len(der), MaxCertificateBytes)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("%w: certificate %d: %w", ErrCertificates, i, err)
		}
		certs[i] = cert
	}
	return certs, nil
}

func chainLimit(limit int) int {
	if limit < 1 || limit > MaxChain {
		return MaxChain
	}
	return limit
}
