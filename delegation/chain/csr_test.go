package chain

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"testing"
)

func pemOf(label string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der}))
}

func newCSR(tb testing.TB, key crypto.Signer) []byte {
	return must[[]byte](tb)(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "ignored"}}, key))
}

func TestParseCSR(t *testing.T) {
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256 := newKey(t, elliptic.P256())
	good := newCSR(t, p256)
	bad := append([]byte(nil), good...)
	bad[len(bad)-1] ^= 1
	sha1 := must[[]byte](t)(sha1CSR(good, p256))
	for name, c := range map[string]struct {
		data []byte
		code string
	}{
		"P-256 DER":        {good, ""},
		"P-256 PEM":        {[]byte(pemOf("CERTIFICATE REQUEST", good)), ""},
		"P-384":            {newCSR(t, newKey(t, elliptic.P384())), ""},
		"Ed25519":          {newCSR(t, edKey), ""},
		"P-521":            {newCSR(t, newKey(t, elliptic.P521())), CodeCSRKey},
		"P-224":            {newCSR(t, newKey(t, elliptic.P224())), CodeCSRKey},
		"RSA":              {newCSR(t, must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 3072))), CodeCSRKey},
		"signature":        {bad, CodeCSRSignature},
		"SHA-1":            {sha1, CodeCSRSignature},
		"trailing DER":     {append(append([]byte(nil), good...), 0), CodeCSR},
		"two blocks":       {[]byte(pemOf("CERTIFICATE REQUEST", good) + pemOf("CERTIFICATE REQUEST", good)), CodeCSR},
		"trailing text":    {[]byte(pemOf("CERTIFICATE REQUEST", good) + "x"), CodeCSR},
		"leading text":     {[]byte("x\n" + pemOf("CERTIFICATE REQUEST", good)), CodeCSR},
		"other type":       {[]byte(pemOf("CERTIFICATE", good)), CodeCSR},
		"empty":            {nil, CodeCSR},
		"too large":        {make([]byte, MaxCSRBytes+1), CodeCSR},
		"headless":         {[]byte("-----BEGIN CERTIFICATE REQUEST-----\n"), CodeCSR},
		"certificate, DER": {newWorld(t, 2, elliptic.P256()).root.Raw, CodeCSR},
	} {
		csr, err := ParseCSR(c.data)
		var refused *CSRError
		if c.code == "" {
			if err != nil || CheckKey(csr.Public) != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if !errors.As(err, &refused) || refused.Code != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
}

// sha1CSR signs a request's body with ECDSA and SHA-1, which x509 does not write any more.
func sha1CSR(der []byte, key *ecdsa.PrivateKey) ([]byte, error) {
	req, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, err
	}
	h := crypto.SHA1.New()
	h.Write(req.RawTBSCertificateRequest)
	sig, err := key.Sign(rand.Reader, h.Sum(nil), crypto.SHA1)
	if err != nil {
		return nil, err
	}
	algorithm := []byte{0x30, 9, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1}
	bits := append([]byte{3, byte(len(sig) + 1), 0}, sig...)
	return sequence(req.RawTBSCertificateRequest, algorithm, bits), nil
}
