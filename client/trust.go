package client

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/signet-pki/signet/delegation/chain"
)

// Bounds of what an appliance says about its keys.
const (
	maxIssuing = 256
	maxKeys    = 16
)

// IssuingCAs fetches the CAs that sign agents and services. They are worth what a root's signature makes them.
func (c *Client) IssuingCAs(ctx context.Context) ([]*x509.Certificate, error) {
	data, err := c.bytes(ctx, "/v1/trust-bundle?format=issuing-pem")
	if err != nil {
		return nil, err
	}
	return parseCertificates(data)
}

func parseCertificates(data []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if len(out) == maxIssuing || len(block.Bytes) > chain.MaxCertificateBytes || block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("client: trust bundle: at most %d certificates, and nothing else, are expected", maxIssuing)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("client: trust bundle: %w", err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("client: trust bundle: no certificate")
	}
	return out, nil
}

// StatementKeys fetches the certificates of the keys that sign events and access tokens. They are worth what a root's
// signature makes them.
func (c *Client) StatementKeys(ctx context.Context) ([]*x509.Certificate, error) {
	set, err := c.Keys(ctx)
	if err != nil {
		return nil, err
	}
	if len(set.Keys) == 0 || len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("client: jwks: %d keys; 1 to %d are expected", len(set.Keys), maxKeys)
	}
	var out []*x509.Certificate
	for _, k := range set.Keys {
		if len(k.X5C) == 0 {
			return nil, errors.New("client: jwks: a key without its certificate")
		}
		der, err := base64.StdEncoding.DecodeString(k.X5C[0])
		if err != nil || len(der) > chain.MaxCertificateBytes {
			return nil, errors.New("client: jwks: x5c is not base64 of a certificate")
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("client: jwks: %w", err)
		}
		out = append(out, cert)
	}
	return out, nil
}
