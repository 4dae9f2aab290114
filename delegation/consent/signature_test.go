package consent_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"math/big"
	"net/http"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/consent"
	"github.com/signet-pki/signet/delegation/evidence"
)

// card is a user's key with a certificate of a CA.
type card struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func issueCard(t *testing.T, ca card, subject string, isCA bool) card {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "Somebody", SerialNumber: subject},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: isCA, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if isCA {
		template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageCertSign, nil
	}
	if ca.cert == nil {
		ca = card{key, template}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return card{key, cert}
}

func (c card) sign(t *testing.T, document []byte) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: c.key}, &jose.SignerOptions{ExtraHeaders: map[jose.HeaderKey]any{
		"typ": evidence.SignatureType, "x5c": []string{base64.StdEncoding.EncodeToString(c.cert.Raw)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(document)
	if err != nil {
		t.Fatal(err)
	}
	out, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSigned(t *testing.T) {
	users := issueCard(t, card{}, "", true)
	others := issueCard(t, card{}, "", true)
	w := newWorld(t, func(base string) http.Handler { return newForger(t, base) }, nil)
	config := consent.Config{
		Name: "idp", Issuer: w.url + "/idp", ClientID: clientID, RedirectURL: w.url + "/v1/grants/callback/idp", HTTPClient: w.client,
		Certificates: &consent.UserCertificates{Roots: []*x509.Certificate{users.cert}, SubjectFrom: evidence.FromSerialNumber},
		Now:          time.Now, Rand: rand.Reader,
	}
	p, err := consent.NewProvider(config)
	if err != nil {
		t.Fatal(err)
	}
	config.Certificates = nil
	without, err := consent.NewProvider(config)
	if err != nil {
		t.Fatal(err)
	}
	document := func(issuer, subject string) []byte {
		doc, err := w.domain.Document(t.Context(), grantID, consent.User{Issuer: issuer, Subject: subject})
		if err != nil {
			t.Fatal(err)
		}
		return doc
	}
	mine := document(w.url+"/idp", "7f3a")
	for name, c := range map[string]struct {
		jws      string
		provider *consent.Provider
		code     string
	}{
		"good":              {issueCard(t, users, "7f3a", false).sign(t, mine), p, ""},
		"another's grant":   {issueCard(t, users, "19c2", false).sign(t, mine), p, "other_user"},
		"another CA's card": {issueCard(t, others, "7f3a", false).sign(t, mine), p, "certificate_untrusted"},
		"a card of nobody":  {issueCard(t, users, "", false).sign(t, mine), p, "subject_invalid"},
		"e-mail":            {issueCard(t, users, "a@b.example", false).sign(t, document(w.url+"/idp", "a@b.example")), p, "subject_is_email"},
		"another provider":  {issueCard(t, users, "7f3a", false).sign(t, document("https://other.example", "7f3a")), p, "issuer_unknown"},
		"not configured":    {issueCard(t, users, "7f3a", false).sign(t, mine), without, "issuer_unknown"},
		"no grant":          {issueCard(t, users, "7f3a", false).sign(t, []byte(`{"v":1}`)), p, "signature_invalid"},
		"no JWS":            {"x.y.z", p, "signature_invalid"},
	} {
		a, err := consent.Signed([]*consent.Provider{c.provider}, c.jws)
		if code, _ := consent.Refusal(err); code != c.code || (err == nil) != (c.code == "") {
			t.Errorf("%s: %v, want %q", name, err, c.code)
		}
		if err == nil && (a.Type != chain.JWS || a.User != (consent.User{Issuer: w.url + "/idp", Subject: "7f3a"}) || string(a.Document) != string(mine)) {
			t.Errorf("%s: %+v", name, a)
		}
	}
}
