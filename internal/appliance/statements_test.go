package appliance

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/signet-pki/signet/delegation/chain"
)

// deviceKey is a key that may answer with another key's signature.
type deviceKey struct {
	*ecdsa.PrivateKey
	signs *ecdsa.PrivateKey
}

func (k deviceKey) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return k.signs.Sign(rand.Reader, digest, opts)
}

func newDeviceKey(t *testing.T) (deviceKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "jwt"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return deviceKey{key, key}, cert
}

func TestStatementIsACompactJWSOfTheJWTKey(t *testing.T) {
	key, cert := newDeviceKey(t)
	s, err := statementsWith(key, cert)
	if err != nil {
		t.Fatal(err)
	}
	compact, err := s.Sign(t.Context(), "secevent+jwt", map[string]int{"n": 1})
	if err != nil {
		t.Fatal(err)
	}
	jws, err := jose.ParseSignedCompact(compact, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	header := jws.Signatures[0].Protected
	kid, err := chain.KeyID(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if header.KeyID != kid || header.ExtraHeaders["typ"] != "secevent+jwt" || len(header.ExtraHeaders) != 1 || header.JSONWebKey != nil {
		t.Errorf("header %+v", header)
	}
	payload, err := jws.Verify(key.Public())
	if err != nil || string(payload) != `{"n":1}` {
		t.Errorf("payload %s, %v", payload, err)
	}
}

func TestStatementThatDoesNotVerifyIsNotReleased(t *testing.T) {
	key, cert := newDeviceKey(t)
	other, otherCert := newDeviceKey(t)
	key.signs = other.PrivateKey
	s, err := statementsWith(key, cert)
	if err != nil {
		t.Fatal(err)
	}
	if compact, err := s.Sign(t.Context(), "secevent+jwt", struct{}{}); err == nil || compact != "" {
		t.Errorf("released %q, %v", compact, err)
	}
	key.signs = key.PrivateKey
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Sign(ended, "secevent+jwt", struct{}{}); !errors.Is(err, context.Canceled) {
		t.Errorf("after the context's end: %v", err)
	}
	if _, err := statementsWith(key, otherCert); err == nil {
		t.Error("took another key's certificate")
	}
}

func TestDirectoryFromBeforeTheJWTKeyIsRefused(t *testing.T) {
	c := &Config{Dir: t.TempDir()}
	if err := os.MkdirAll(c.pkiDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	_, cert := newDeviceKey(t)
	if err := os.WriteFile(filepath.Join(c.pkiDir(), "root.pem"), pemOf(cert.Raw), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := c.loadTrust()
	if err == nil || !strings.Contains(err.Error(), "has no jwt.pem") || !strings.Contains(err.Error(), "hold a new ceremony") {
		t.Errorf("error %v", err)
	}
}
