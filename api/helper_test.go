package api

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/signet-pki/signet/delegation/chain"
)

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

func csr(t *testing.T, key crypto.Signer) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func ders(t *testing.T, blocks []string) [][]byte {
	t.Helper()
	var out [][]byte
	for _, b := range blocks {
		block, _ := pem.Decode([]byte(b))
		if block == nil {
			t.Fatalf("not PEM: %q", b)
		}
		out = append(out, block.Bytes)
	}
	return out
}

// chainPEM is what a client presents, as strings.
func (p *person) chainPEM() []string { return pemChain(p.cert.Certificate) }

func newID(t *testing.T) string {
	t.Helper()
	var b [16]byte
	_, err := rand.Read(b[:])
	must(t, err)
	b[6], b[8] = b[6]&0x0f|0x70, b[8]&0x3f|0x80
	return chain.FormatUUID(b)
}

// selfSigned is a certificate of nobody's CA.
func selfSigned(t *testing.T, change func(*x509.Certificate)) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key := newKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	change(tmpl)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	must(t, err)
	return key, der
}

func listenerCertificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, der := selfSigned(t, func(c *x509.Certificate) {
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, c.KeyUsage|x509.KeyUsageCertSign
	})
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// contract holds real answers against the OpenAPI document.
type contract struct {
	doc    *openapi3.T
	routes []route
	shapes shapes
}

func newContract(t *testing.T, s *Server) *contract {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(s.openapi)
	must(t, err)
	return &contract{doc, s.routes, newShapes(t)}
}

// find is the row that a path is of.
func (c *contract) find(method, path string) *route {
	u, err := url.Parse(path)
	if err != nil {
		return nil
	}
	for i := range c.routes {
		if c.routes[i].method == method && c.routes[i].path == u.Path {
			return &c.routes[i]
		}
	}
	for i := range c.routes {
		if c.routes[i].method == method && matches(c.routes[i].echoPath(), u.Path) {
			return &c.routes[i]
		}
	}
	return nil
}

func matches(pattern, path string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(path, prefix)
	}
	want, got := strings.Split(pattern, "/"), strings.Split(path, "/")
	if len(want) != len(got) {
		return false
	}
	for i := range want {
		if want[i] != got[i] && !strings.HasPrefix(want[i], ":") {
			return false
		}
	}
	return true
}

func (c *contract) check(t *testing.T, method, path string, a answer) {
	t.Helper()
	c.shapes.check(t, path, a)
	r := c.find(method, path)
	if r == nil {
		return
	}
	responses := c.doc.Paths.Find(r.path).GetOperation(method).Responses
	ref := responses.Value(strconv.Itoa(a.status))
	if ref == nil {
		ref = responses.Default()
	}
	media, _, _ := strings.Cut(a.header.Get("Content-Type"), ";")
	content := ref.Value.Content[media]
	if content == nil {
		if r.id == "readTrustBundle" || r.id == "ready" {
			return // has a second form
		}
		t.Errorf("%s %s: %d with media type %q is not in the document", method, path, a.status, media)
		return
	}
	if content.Schema == nil {
		return
	}
	var v any
	dec := json.NewDecoder(bytes.NewReader(a.body))
	must(t, dec.Decode(&v))
	if err := content.Schema.Value.VisitJSON(v, openapi3.EnableJSONSchema2020()); err != nil {
		t.Errorf("%s %s: %d does not fit its schema: %v\n%s", method, path, a.status, err, a.body)
	}
}

func typeOf[T any]() reflect.Type { return reflect.TypeFor[T]() }
