package hsm_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/signet-pki/signet/hsm"
)

func writeCertificate(t *testing.T, k crypto.Signer) string {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "cert"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "cert.der")
	if err := os.WriteFile(path, der, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestGeneratedKeysStayInside(t *testing.T) {
	h, token := newToken(t)
	for label, alg := range map[string]hsm.Algorithm{"p256": hsm.P256, "p384": hsm.P384, "ed25519": hsm.Ed25519} {
		generate(t, token, label, alg)
	}
	listing := mustTool(t, h, "issuing", "--list-objects", "--type", "privkey")
	blocks := strings.Split(listing, "Private Key Object")[1:]
	if len(blocks) != 3 {
		t.Fatalf("pkcs11-tool lists %d private keys, want 3:\n%s", len(blocks), listing)
	}
	for _, block := range blocks {
		for _, want := range []string{"Access:     sensitive, always sensitive, never extractable, local", "Usage:      sign\n"} {
			if !strings.Contains(block, want) {
				t.Errorf("no %q in\n%s", want, block)
			}
		}
	}
	raw := pkcs11.New(h.Module())
	defer raw.Destroy()
	for _, label := range []string{"p256", "p384", "ed25519"} {
		t.Run(label, func(t *testing.T) { tryToTake(t, raw, label) })
	}
}

// tryToTake does what a thief inside the process would: the module is initialised and logged in already.
func tryToTake(t *testing.T, raw *pkcs11.Ctx, label string) {
	slots, err := raw.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	s, err := raw.OpenSession(slots[0], pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.CloseSession(s) }()
	template := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
	}
	if err := raw.FindObjectsInit(s, template); err != nil {
		t.Fatal(err)
	}
	found, _, err := raw.FindObjects(s, 2)
	if err != nil || len(found) != 1 {
		t.Fatalf("%d keys: %v", len(found), err)
	}
	if err := raw.FindObjectsFinal(s); err != nil {
		t.Fatal(err)
	}
	if v, err := raw.GetAttributeValue(s, found[0], []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)}); err == nil {
		t.Errorf("CKA_VALUE was read: %d bytes", len(v[0].Value))
	}
	for name, kind := range map[string]uint{"CKA_COPYABLE": pkcs11.CKA_COPYABLE, "CKA_MODIFIABLE": pkcs11.CKA_MODIFIABLE, "CKA_EXTRACTABLE": pkcs11.CKA_EXTRACTABLE} {
		got, err := raw.GetAttributeValue(s, found[0], []*pkcs11.Attribute{pkcs11.NewAttribute(kind, nil)})
		if err != nil || !bytes.Equal(got[0].Value, []byte{0}) {
			t.Errorf("%s is not false: %v", name, err)
		}
	}
	for name, attribute := range map[string]*pkcs11.Attribute{
		"extractable":   pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true),
		"not sensitive": pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false),
		"label":         pkcs11.NewAttribute(pkcs11.CKA_LABEL, "mine"),
		"derive":        pkcs11.NewAttribute(pkcs11.CKA_DERIVE, true),
	} {
		if err := raw.SetAttributeValue(s, found[0], []*pkcs11.Attribute{attribute}); err == nil {
			t.Errorf("the attribute could be set: %s", name)
		}
	}
	if _, err := raw.CopyObject(s, found[0], []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false)}); err == nil {
		t.Error("the key could be copied")
	}
}
