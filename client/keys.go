package client

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	v1 "github.com/signet-pki/signet/api/v1"
)

// CSR makes a certification request for key, PEM. The appliance looks at its key and signature alone.
func CSR(key crypto.Signer) (string, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return "", fmt.Errorf("client: make CSR: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}

// Certificate joins a chain of PEM strings, leaf first, one certificate each, with the key that the leaf certifies.
func Certificate(chain []string, key crypto.Signer) (*tls.Certificate, error) {
	cert := &tls.Certificate{PrivateKey: key}
	for _, text := range chain {
		block, rest := pem.Decode([]byte(text))
		if block == nil || block.Type != "CERTIFICATE" || strings.TrimSpace(string(rest)) != "" {
			return nil, errors.New("client: certificate chain: not one PEM certificate each")
		}
		cert.Certificate = append(cert.Certificate, block.Bytes)
	}
	if len(cert.Certificate) == 0 {
		return nil, errors.New("client: certificate chain: empty")
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("client: certificate chain: %w", err)
	}
	if public, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || key == nil || !public.Equal(key.Public()) {
		return nil, errors.New("client: certificate chain: the leaf is for another key")
	}
	cert.Leaf = leaf
	return cert, nil
}

func readReady(resp *http.Response) (v1.Ready, error) {
	var out v1.Ready
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return out, fmt.Errorf("client: readyz: %w", err)
	}
	if err := json.Unmarshal(body, &out); err != nil || out.Status == "" {
		return v1.Ready{}, fmt.Errorf("client: readyz: status %s, and not the JSON expected", resp.Status)
	}
	return out, nil
}
