package workload

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"
)

const (
	domain = "hospital.example"
	agent1 = "spiffe://hospital.example/agent/research/01926f5e-8000-7000-8000-000000000001"
	agent2 = "spiffe://hospital.example/agent/research/01926f5e-8000-7000-8000-000000000002"
)

// authority is a root with one issuing CA.
type authority struct {
	t        *testing.T
	root, ca *x509.Certificate
	key      *ecdsa.PrivateKey
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey(t)}
	rootKey := newKey(t)
	template := func(name string, pathLen int) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, MaxPathLen: pathLen,
			MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		}
	}
	root, ca := template("root", 1), template("agents", 0)
	a.root = a.sign(root, root, &rootKey.PublicKey, rootKey)
	ca.PermittedURIDomains, ca.PermittedDNSDomainsCritical = []string{domain}, true
	a.ca = a.sign(ca, a.root, &a.key.PublicKey, rootKey)
	return a
}

func (a *authority) sign(template, parent *x509.Certificate, key *ecdsa.PublicKey, by *ecdsa.PrivateKey) *x509.Certificate {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, by)
	must(a.t, err)
	cert, err := x509.ParseCertificate(der)
	must(a.t, err)
	return cert
}

// issue makes an agent's certificate, changed as a test wants it.
func (a *authority) issue(id string, changes ...func(*x509.Certificate)) *tls.Certificate {
	a.t.Helper()
	uri, err := url.Parse(id)
	must(a.t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), URIs: []*url.URL{uri}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		NotBefore:   time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Minute),
	}
	for _, change := range changes {
		change(template)
	}
	key := newKey(a.t)
	leaf := a.sign(template, a.ca, &key.PublicKey, a.key)
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw, a.ca.Raw}, PrivateKey: key, Leaf: leaf}
}

func (a *authority) identity(id string, changes ...func(*x509.Certificate)) Identity {
	a.t.Helper()
	i, err := NewIdentity(a.issue(id, changes...), []*x509.Certificate{a.root}, time.Now())
	must(a.t, err)
	return i
}

// files writes what Files read.
func (a *authority) files(dir string, cert *tls.Certificate) Files {
	a.t.Helper()
	f := Files{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem"), Roots: filepath.Join(dir, "root.pem")}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	must(a.t, err)
	write := func(path, label string, ders ...[]byte) {
		var out []byte
		for _, der := range ders {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der})...)
		}
		must(a.t, os.WriteFile(path, out, 0o600))
	}
	write(f.Cert, "CERTIFICATE", cert.Certificate...)
	write(f.Key, "PRIVATE KEY", key)
	write(f.Roots, "CERTIFICATE", a.root.Raw)
	return f
}
