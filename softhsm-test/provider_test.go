package softhsmtest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// provider is npm's oidc-provider in a process of its own: an OpenID provider that nobody here wrote.
type provider struct {
	t      testing.TB
	in     io.Writer
	out    *bufio.Scanner
	said   output
	config providerConfig
	issuer string
	cert   *x509.Certificate
	ca     string // path of the certificate
}

// providerConfig is a line that provider.mjs reads.
type providerConfig struct {
	Host    string              `json:"host"`
	Key     string              `json:"key"`
	Cert    string              `json:"cert"`
	Secret  string              `json:"secret"`
	Alg     string              `json:"alg"`
	JWKS    jose.JSONWebKeySet  `json:"jwks"`
	Clients []providerClient    `json:"clients"`
	Roles   map[string][]string `json:"roles"`
	Silent  bool                `json:"silent"`
	SkewMS  int64               `json:"skew_ms"`
	Keep    bool                `json:"keep"`
}

type providerClient struct {
	ID        string   `json:"id"`
	Redirects []string `json:"redirects"`
}

// modules installs the provider by its lockfile, once for all tests.
var modules = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(bin, "oidc-provider") // goes with the programs under test
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "oidc-provider"))); err != nil {
		return "", err
	}
	install := exec.CommandContext(context.Background(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	install.Dir, install.Stderr = dir, os.Stderr
	return dir, install.Run()
})

// newProvider starts a provider on a name of its own: to a browser, 127.0.0.1 and localhost, where the appliance is, are two sites.
func newProvider(t testing.TB) *provider {
	t.Helper()
	dir, err := modules()
	must(t, err)
	p := &provider{t: t, config: providerConfig{
		Host: "127.0.0.1", Secret: rand.Text(), Alg: "RS256", JWKS: signingKeys(t, "RS256"), Clients: []providerClient{},
		Roles: map[string][]string{"physician-7f3a": {"physician", "analyst"}, "clerk-19c2": {"clerk"}},
	}}
	p.certify()
	cmd := exec.CommandContext(t.Context(), "node", "provider.mjs")
	cmd.Dir, cmd.Stderr = dir, &p.said
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	p.in, p.out = in, bufio.NewScanner(out)
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close() // it ends with its input
		_ = cmd.Wait() // or was killed with the test's context
		if t.Failed() {
			t.Logf("the provider said: %s", lastOf(p.said.String(), 1500))
		}
	})
	p.configure()
	return p
}

// certify makes the key and certificate that the provider's port shows.
func (p *provider) certify() {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(p.t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test provider"}, IPAddresses: []net.IP{net.ParseIP(p.config.Host)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(p.t, err)
	p.cert, err = x509.ParseCertificate(der)
	must(p.t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	must(p.t, err)
	p.config.Cert = pemOf("CERTIFICATE", der)
	p.config.Key = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	p.ca = filepath.Join(p.t.TempDir(), "provider.pem")
	must(p.t, os.WriteFile(p.ca, []byte(p.config.Cert), 0o600))
}

// configure makes the provider be as its configuration says.
func (p *provider) configure() {
	p.t.Helper()
	line, err := json.Marshal(p.config) // #nosec G117 -- a test's own secret
	must(p.t, err)
	_, err = p.in.Write(append(line, '\n'))
	must(p.t, err)
	for p.out.Scan() {
		if bytes.HasPrefix(p.out.Bytes(), []byte(`{"issuer":`)) { // and not a word of the library's
			break
		}
	}
	var answer struct {
		Issuer string `json:"issuer"`
	}
	if err := json.Unmarshal(p.out.Bytes(), &answer); err != nil {
		p.t.Fatalf("the provider ended: %v, %v\n%s", err, p.out.Err(), p.said.String())
	}
	p.issuer = answer.Issuer
}

// change configures the provider anew, and back at the end of the test.
func (p *provider) change(t testing.TB, f func(*providerConfig)) {
	t.Helper()
	before := p.config
	f(&p.config)
	p.configure()
	t.Cleanup(func() {
		p.config = before
		p.config.Keep = false
		p.configure()
	})
}

// signingKeys is a provider's private key set of one key, with a kid that no other set has.
func signingKeys(t testing.TB, alg string) jose.JSONWebKeySet {
	t.Helper()
	key, err := newSigningKey(alg)
	must(t, err)
	return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key, KeyID: rand.Text(), Use: "sig", Algorithm: alg}}}
}
