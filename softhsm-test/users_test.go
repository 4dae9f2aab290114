package softhsmtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	proof "github.com/signet-pki/signet/delegation/evidence"
)

// users is a CA that gives people cards.
type users struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	file string
}

func newUsers(t testing.TB) users {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	u := users{key: key, file: filepath.Join(t.TempDir(), "users.pem")}
	u.cert = u.issue(t, &key.PublicKey, &x509.Certificate{Subject: pkix.Name{CommonName: "Users"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign})
	must(t, os.WriteFile(u.file, []byte(pemOf("CERTIFICATE", u.cert.Raw)), 0o600))
	return u
}

func (u users) issue(t testing.TB, key *ecdsa.PublicKey, c *x509.Certificate) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	must(t, err)
	c.SerialNumber, c.BasicConstraintsValid = serial, true
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent := u.cert
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key, u.key)
	must(t, err)
	out, err := x509.ParseCertificate(der)
	must(t, err)
	return out
}

// sign makes a card for the user, and has it sign.
func (u users) sign(t testing.TB, subject string, document []byte) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	card := u.issue(t, &key.PublicKey, &x509.Certificate{
		Subject: pkix.Name{CommonName: "A user", SerialNumber: subject}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, &jose.SignerOptions{ExtraHeaders: map[jose.HeaderKey]any{
		"typ": proof.SignatureType, "x5c": []string{base64.StdEncoding.EncodeToString(card.Raw)},
	}})
	must(t, err)
	jws, err := signer.Sign(document)
	must(t, err)
	out, err := jws.CompactSerialize()
	must(t, err)
	return out
}
