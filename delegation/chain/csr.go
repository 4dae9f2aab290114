package chain

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// CSR is what counts of a certification request: a key whose holder signed it. Names, attributes and extensions are not kept.
type CSR struct {
	Public crypto.PublicKey // *ecdsa.PublicKey on P-256 or P-384, or ed25519.PublicKey
	SPKI   []byte           // its canonical SubjectPublicKeyInfo
}

// CSRError is a refused CSR.
type CSRError struct {
	Code string // bad_csr, bad_csr_key or bad_csr_signature
	Err  error
}

// Error gives code and cause.
func (e *CSRError) Error() string { return e.Code + ": " + e.Err.Error() }

// Unwrap gives the cause.
func (e *CSRError) Unwrap() error { return e.Err }

// ParseCSR reads a PKCS#10 request, as DER or as exactly one PEM block, and checks its proof of possession. The key is judged
// before the signature is computed, so that no other key type costs anything. The error is a *CSRError.
func ParseCSR(pemOrDER []byte) (*CSR, error) {
	der, err := csrDER(pemOrDER)
	if err != nil {
		return nil, &CSRError{Code: CodeCSR, Err: err}
	}
	req, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, &CSRError{Code: CodeCSR, Err: err}
	}
	if _, err := ParseKey(req.RawSubjectPublicKeyInfo); err != nil {
		return nil, &CSRError{Code: CodeCSRKey, Err: err}
	}
	switch req.SignatureAlgorithm { // CheckSignature alone would take SHA-1
	case x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.PureEd25519:
	default:
		return nil, &CSRError{Code: CodeCSRSignature, Err: fmt.Errorf("signature algorithm %s", req.SignatureAlgorithm)}
	}
	if err := req.CheckSignature(); err != nil {
		return nil, &CSRError{Code: CodeCSRSignature, Err: err}
	}
	return &CSR{Public: req.PublicKey, SPKI: req.RawSubjectPublicKeyInfo}, nil
}

func csrDER(data []byte) ([]byte, error) {
	if len(data) > MaxCSRBytes {
		return nil, fmt.Errorf("%d bytes; at most %d are allowed", len(data), MaxCSRBytes)
	}
	if !bytes.HasPrefix(data, []byte("-----BEGIN")) {
		return data, nil
	}
	der, rest, err := nextBlock(data, "CERTIFICATE REQUEST")
	if err != nil {
		return nil, err
	}
	if len(rest) != 0 {
		return nil, errors.New("data after the PEM block")
	}
	return der, nil
}

// nextBlock reads one PEM block at the very beginning of data, without headers, and the white space after it.
func nextBlock(data []byte, label string) (der, rest []byte, err error) {
	if !bytes.HasPrefix(data, []byte("-----BEGIN "+label+"-----")) {
		return nil, nil, fmt.Errorf("not a PEM block of type %s", label)
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != label || len(block.Headers) != 0 {
		return nil, nil, fmt.Errorf("malformed PEM block of type %s", label)
	}
	// Decode goes on to a later block when the first is broken.
	if used := data[:len(data)-len(rest)]; bytes.Count(used, []byte("-----BEGIN")) != 1 {
		return nil, nil, fmt.Errorf("malformed PEM block of type %s", label)
	}
	return block.Bytes, bytes.TrimLeft(rest, " \t\r\n"), nil
}
