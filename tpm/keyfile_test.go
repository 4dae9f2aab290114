package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/signet-pki/signet/internal/testrig/swtpm"
	"github.com/signet-pki/signet/tpm/quote"
)

// parts are those of a key file that a test composes.
type parts struct {
	Type        asn1.ObjectIdentifier
	EmptyAuth   bool            `asn1:"explicit,tag:0,optional"`
	Policy      []asn1.RawValue `asn1:"explicit,tag:1,optional,omitempty"`
	Secret      []byte          `asn1:"explicit,tag:2,optional,omitempty"`
	Description string          `asn1:"explicit,tag:4,optional,utf8"`
	RSAParent   bool            `asn1:"explicit,tag:5,optional"`
	Parent      int64
	Public      []byte
	Private     []byte
}

func (p parts) pem(t testing.TB) []byte {
	t.Helper()
	der, err := asn1.Marshal(p)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: pemTSS2, Bytes: der})
}

func in2B(b []byte) []byte { return append([]byte{byte(len(b) >> 8), byte(len(b))}, b...) }

// vector is the public area of a key that a TPM made.
func vector(t testing.TB) []byte {
	t.Helper()
	public, err := os.ReadFile(filepath.Join("quote", "testdata", "devid.pub"))
	must(t, err)
	return public
}

func someParts(t testing.TB) parts {
	return parts{Type: loadableKey(), EmptyAuth: true, Parent: SRKHandle, Public: in2B(vector(t)), Private: in2B(make([]byte, 100))}
}

func TestKeyFileRoundTrip(t *testing.T) {
	p := someParts(t)
	f, err := ParseKeyFile(p.pem(t))
	must(t, err)
	out, err := f.PEM()
	must(t, err)
	if !bytes.Equal(out, p.pem(t)) || !f.EmptyAuth() {
		t.Errorf("written again it is another file:\n%s%s", p.pem(t), out)
	}
	p.EmptyAuth, p.Description = false, "told to people"
	f, err = ParseKeyFile(p.pem(t))
	must(t, err)
	if f.EmptyAuth() {
		t.Error("no authorisation value is needed")
	}
}

func TestKeyFileRefuses(t *testing.T) {
	good := string(someParts(t).pem(t))
	change := func(f func(*parts)) string {
		p := someParts(t)
		f(&p)
		return string(p.pem(t))
	}
	area := func(f func([]byte)) string {
		public := bytes.Clone(vector(t))
		f(public)
		return change(func(p *parts) { p.Public = in2B(public) })
	}
	ak, err := os.ReadFile(filepath.Join("quote", "testdata", "devid-ak.pub"))
	must(t, err)
	for what, tc := range map[string]struct {
		text string
		want error
		says string
	}{
		"empty":                {"", ErrKeyFile, "does not begin"},
		"text before":          {"x\n" + good, ErrKeyFile, "does not begin"},
		"text behind":          {good + "x", ErrKeyFile, "not one PEM block"},
		"two blocks":           {good + good, ErrKeyFile, "not one PEM block"},
		"a header":             {strings.Replace(good, "KEY-----\n", "KEY-----\nA: b\n\n", 1), ErrKeyFile, "not one PEM block"},
		"another block":        {strings.ReplaceAll(good, "TSS2 ", "EC "), ErrKeyFile, "does not begin"},
		"too long":             {good + strings.Repeat("\n", maxKeyFile), ErrKeyFile, "more than"},
		"no DER":               {string(pem.EncodeToMemory(&pem.Block{Type: pemTSS2, Bytes: []byte{1, 2, 3}})), ErrKeyFile, "not DER"},
		"a duplicate":          {change(func(p *parts) { p.Type = asn1.ObjectIdentifier{2, 23, 133, 10, 1, 4} }), ErrKeyFile, "2.23.133.10.1.4"},
		"sealed data":          {change(func(p *parts) { p.Type = asn1.ObjectIdentifier{2, 23, 133, 10, 1, 5} }), ErrKeyFile, "2.23.133.10.1.5"},
		"a policy":             {change(func(p *parts) { p.Policy = []asn1.RawValue{{Tag: 4, Bytes: []byte{1}}} }), ErrKeyFile, "field [1]"},
		"a secret":             {change(func(p *parts) { p.Secret = []byte{1} }), ErrKeyFile, "field [2]"},
		"an RSA parent":        {change(func(p *parts) { p.RSAParent = true }), ErrKeyFile, "field [5]"},
		"another parent":       {change(func(p *parts) { p.Parent = 0x81000002 }), ErrKeyFile, "its parent is 0x81000002"},
		"the owner as parent":  {change(func(p *parts) { p.Parent = 0x40000001 }), ErrKeyFile, "its parent is 0x40000001"},
		"a negative parent":    {change(func(p *parts) { p.Parent = -1 }), ErrKeyFile, "cut short"},
		"public part no TPM2B": {change(func(p *parts) { p.Public = p.Public[1:] }), ErrKeyFile, "TPM2B"},
		"private part too":     {change(func(p *parts) { p.Private = append(p.Private, 0) }), ErrKeyFile, "TPM2B"},
		"no private part":      {change(func(p *parts) { p.Private = in2B(nil) }), ErrKeyFile, "0 bytes"},
		"long private part":    {change(func(p *parts) { p.Private = in2B(make([]byte, maxSensitive+1)) }), ErrKeyFile, "1025 bytes"},
		"not fixedTPM":         {area(func(p []byte) { p[7] ^= 1 << 1 }), ErrUnsuitable, "not fixedTPM"},
		"not fixedParent":      {area(func(p []byte) { p[7] ^= 1 << 4 }), ErrUnsuitable, "not fixedParent"},
		"imported":             {area(func(p []byte) { p[7] ^= 1 << 5 }), ErrUnsuitable, "not sensitiveDataOrigin"},
		"decrypts":             {area(func(p []byte) { p[5] ^= 1 << 1 }), ErrUnsuitable, "may decrypt"},
		"an attestation key":   {change(func(p *parts) { p.Public = in2B(ak) }), ErrUnsuitable, "restricted"},
		"another curve":        {area(func(p []byte) { p[17] = 5 }), ErrUnsuitable, "curve 0x0005"},
	} {
		_, err := ParseKeyFile([]byte(tc.text))
		if err == nil {
			t.Errorf("%s: no error", what)
			continue
		}
		want(t, err, tc.want)
		if !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v does not say %q", what, err, tc.says)
		}
	}
}

// TestOpenSSLUsesOurFile has OpenSSL's provider for TPMs read a key file and sign with it.
func TestOpenSSLUsesOurFile(t *testing.T) {
	rig := swtpm.New(t)
	k := keysOf(t, provisioned(t, rig), KeysConfig{})
	key, file := fileKey(t, k, elliptic.P256())
	text, err := file.PEM()
	must(t, err)
	dir := t.TempDir()
	write(t, dir, map[string][]byte{"key.pem": text, "message": []byte("hello")})
	t.Setenv("TPM2OPENSSL_TCTI", rig.TCTI())
	if out, err := tool(t, dir, "openssl", "pkeyutl", "-provider", "tpm2", "-provider", "default", "-sign", "-rawin", "-digest", "sha256",
		"-inkey", "key.pem", "-in", "message", "-out", "signature"); err != nil {
		t.Fatalf("%v (this test needs: apt-get install tpm2-openssl)\n%s", err, out)
	}
	signature, err := os.ReadFile(filepath.Join(dir, "signature"))
	must(t, err)
	digest := sha256.Sum256([]byte("hello"))
	if !ecdsa.VerifyASN1(key.file.key.Public(), digest[:], signature) {
		t.Error("OpenSSL signed with another key")
	}
}

// TestFilesOfOthers reads what tpm2-tools and OpenSSL write.
func TestFilesOfOthers(t *testing.T) {
	rig := swtpm.New(t)
	k := keysOf(t, provisioned(t, rig), KeysConfig{})
	dir := t.TempDir()
	t.Setenv("TPM2OPENSSL_TCTI", rig.TCTI())
	t.Setenv("TPM2TOOLS_TCTI", rig.TCTI())
	script := `tpm2_create -Q -C 0x81000001 -G ecc256:ecdsa -a 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign|noda' -u k.pub -r k.priv &&
tpm2_encodeobject -C 0x81000001 -u k.pub -r k.priv -o tools.pem && tpm2_readpublic -Q -c 0x81000001 &&
openssl genpkey -provider tpm2 -provider default -algorithm EC -pkeyopt group:P-256 -pkeyopt parent:0x81000001 -out openssl.pem`
	if out, err := tool(t, dir, "sh", "-c", script); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text, err := os.ReadFile(filepath.Join(dir, "tools.pem"))
	must(t, err)
	file, err := ParseKeyFile(text)
	must(t, err)
	key, err := k.Open(t.Context(), file)
	must(t, err)
	if _, err := x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		t.Error(err)
	}
	// OpenSSL's keys can be used for key agreement, too.
	text, err = os.ReadFile(filepath.Join(dir, "openssl.pem"))
	must(t, err)
	_, err = ParseKeyFile(text)
	want(t, err, ErrUnsuitable)
	if !strings.HasSuffix(err.Error(), "may decrypt too") {
		t.Errorf("another reason: %v", err)
	}
}

func FuzzKeyFile(f *testing.F) {
	f.Add(someParts(f).pem(f))
	f.Add(parts{Type: loadableKey(), Parent: SRKHandle, Public: in2B(vector(f)), Private: in2B([]byte{1}), Description: "x"}.pem(f))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := ParseKeyFile(data)
		if err != nil {
			return
		}
		text, err := file.PEM()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseKeyFile(text)
		if err != nil || !bytes.Equal(again.private, file.private) || !bytes.Equal(again.key.Name(), file.key.Name()) {
			t.Errorf("what was read cannot be written and read again: %v", err)
		}
		if _, err := tpm2.Unmarshal[tpm2.TPMTPublic](file.key.Marshal()); err != nil {
			t.Errorf("go-tpm does not read the public area: %v", err)
		}
		if _, err := quote.ParseHeldKey(file.key.Marshal()); err != nil {
			t.Error(err)
		}
	})
}
