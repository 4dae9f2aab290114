package quote

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"
)

func flip(data []byte, offset int, mask byte) []byte {
	changed := bytes.Clone(data)
	changed[offset] ^= mask
	return changed
}

// TestParseAKRefuses changes one property at a time. A TPMT_PUBLIC: type 0, nameAlg 2, attributes 4 to 7, policy 8, symmetric 10,
// scheme 12, hash 14, curve 16, kdf 18, x 20, y 54.
func TestParseAKRefuses(t *testing.T) {
	_, _, b, _ := vectors(t)
	public := b.AK.Marshal()
	for name, bad := range map[string][]byte{
		"RSA type":                   flip(public, 1, 0x22),
		"other name algorithm":       flip(public, 3, 7),
		"not fixedTPM":               flip(public, 7, attrFixedTPM),
		"not fixedParent":            flip(public, 7, attrFixedParent),
		"imported":                   flip(public, 7, attrSensitiveDataOrigin),
		"unrestricted":               flip(public, 5, attrRestricted>>16),
		"decrypts":                   flip(public, 5, attrDecrypt>>16),
		"does not sign":              flip(public, 5, attrSign>>16),
		"signs certificates":         flip(public, 5, attrX509Sign>>16),
		"other scheme":               flip(public, 13, 2),
		"other hash":                 flip(public, 15, 7),
		"other curve":                flip(public, 17, 7),
		"point not on the curve":     flip(public, 40, 1),
		"trailing byte":              append(bytes.Clone(public), 0),
		"cut short":                  public[:len(public)-1],
		"empty":                      nil,
		"huge":                       make([]byte, 1<<16),
		"an endorsement key's":       bindingOf(t).EKPublic,
		"TPM2B with a wrong length":  append([]byte{0, 1}, public...),
		"TPM2B with a trailing byte": append(append([]byte{0, byte(len(public))}, public...), 0),
	} {
		if _, err := ParseAK(bad); !errors.Is(err, ErrKey) && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	wrapped, err := ParseAK(append([]byte{0, byte(len(public))}, public...))
	if err != nil || !bytes.Equal(wrapped.Name(), b.AK.Name()) {
		t.Errorf("TPM2B_PUBLIC: %v", err)
	}
	block, _ := pem.Decode(vector(t, "ak.pem"))
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil || !b.AK.Public().Equal(key) {
		t.Errorf("ak.pem is another key (%v)", err)
	}
}

// TestParseCounterRefuses: TPMS_NV_PUBLIC is index 0, nameAlg 4, attributes 6 to 9, policy 10, size 12.
func TestParseCounterRefuses(t *testing.T) {
	_, _, b, _ := vectors(t)
	public := b.Counter.Marshal()
	for name, bad := range map[string][]byte{
		"other name algorithm": flip(public, 5, 7),
		"ordinary":             flip(public, 9, 0x10),
		"extend":               flip(public, 9, 0x50),
		"not orderly":          flip(public, 6, nvOrderly>>24),
		"unwritten":            flip(public, 6, nvWritten>>24),
		"other size":           flip(public, 13, 1),
		"trailing byte":        append(bytes.Clone(public), 0),
		"cut short":            public[:13],
		"empty":                nil,
	} {
		if _, err := ParseCounter(bad); !errors.Is(err, ErrKey) && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ParseCounter(append([]byte{0, byte(len(public))}, public...)); err != nil {
		t.Errorf("TPM2B_NV_PUBLIC: %v", err)
	}
}

func bindingOf(t testing.TB) Binding {
	t.Helper()
	binding, err := ParseBinding(vector(t, "ak-binding.json"))
	if err != nil {
		t.Fatal(err)
	}
	return binding
}

func TestBindingRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Binding)
		want   error
	}{
		"AK name":          {func(b *Binding) { b.AKName[5] ^= 1 }, ErrName},
		"AK public":        {func(b *Binding) { b.AKPublic[5] ^= attrRestricted >> 16 }, ErrKey},
		"NV name":          {func(b *Binding) { b.NVName[5] ^= 1 }, ErrName},
		"NV index":         {func(b *Binding) { b.NVIndex++ }, ErrName},
		"NV public":        {func(b *Binding) { b.NVPublic[9] ^= 0x10 }, ErrKey},
		"EK public":        {func(b *Binding) { b.EKPublic = b.AKPublic }, ErrKey},
		"EK certificate":   {func(b *Binding) { b.EKCertificate = string(vector(t, "ek-root.pem")) }, ErrEKCertificate},
		"two certificates": {func(b *Binding) { b.EKCertificate += b.EKCertificate }, ErrMalformed},
		"secret":           {func(b *Binding) { b.Activation.Secret[0] ^= 1 }, ErrTranscript},
		"no challenge":     {func(b *Binding) { b.Activation.CredentialBlob = nil }, ErrTranscript},
		"empty":            {func(b *Binding) { *b = Binding{} }, ErrTranscript},
	} {
		binding := bindingOf(t)
		c.change(&binding)
		if _, err := binding.Verify(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestParseBindingIsStrict(t *testing.T) {
	good := string(vector(t, "ak-binding.json"))
	var b Binding
	if err := json.Unmarshal([]byte(good), &b); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"unknown field":     strings.Replace(good, "{", `{"more":1,`, 1),
		"repeated field":    strings.Replace(good, "{", `{"nv_index":"0x01805347",`, 1),
		"repeated, nested":  strings.Replace(good, `"activation": {`, `"activation": {"secret":"",`, 1),
		"trailing data":     good + "{}",
		"a list":            "[]",
		"list of values":    strings.Replace(good, `"nv_index"`, `"x":[1],"nv_index"`, 1),
		"upper-case name":   strings.Replace(good, `"ak_name": "000b`, `"ak_name": "000B`, 1),
		"index as a number": strings.Replace(good, `"0x01805347"`, "25187143", 1),
		"cut short":         good[:len(good)/2],
		"huge":              strings.Repeat(" ", maxBinding+1),
		"empty":             "",
	} {
		if _, err := ParseBinding([]byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func ekTrust(t testing.TB) EKRoots {
	t.Helper()
	trust := EKRoots{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), At: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}
	trust.Roots.AppendCertsFromPEM(vector(t, "ek-root.pem"))
	trust.Intermediates.AppendCertsFromPEM(vector(t, "ek-intermediate.pem"))
	return trust
}

func TestVerifyEK(t *testing.T) {
	_, _, bound, _ := vectors(t)
	cert, public := bound.EKCertificate, bindingOf(t).EKPublic
	if len(cert.UnhandledCriticalExtensions) == 0 {
		t.Fatal("the vector has no critical extension that Go does not know: it proves nothing")
	}
	maker, err := VerifyEK(cert, public, ekTrust(t))
	if err != nil || maker.Model != "swtpm" {
		t.Fatalf("%+v, %v", maker, err)
	}
	if len(cert.UnhandledCriticalExtensions) == 0 {
		t.Error("VerifyEK changed the caller's certificate")
	}
	changed := func(change func(*x509.Certificate)) *x509.Certificate {
		c := *cert
		change(&c)
		return &c
	}
	trust := ekTrust(t)
	old := trust
	old.At = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		cert   *x509.Certificate
		public []byte
		roots  EKRoots
	}{
		"no certificate": {nil, public, trust},
		"no roots":       {cert, public, EKRoots{At: trust.At}},
		"no time":        {cert, public, EKRoots{Roots: trust.Roots, Intermediates: trust.Intermediates}},
		"other roots":    {cert, public, EKRoots{Roots: x509.NewCertPool(), Intermediates: trust.Intermediates, At: trust.At}},
		"not yet valid":  {cert, public, old},
		"usage":          {changed(func(c *x509.Certificate) { c.UnknownExtKeyUsage = nil }), public, trust},
		"CA":             {changed(func(c *x509.Certificate) { c.IsCA = true }), public, trust},
		"other key":      {changed(func(c *x509.Certificate) { c.PublicKey = bound.AK.Public() }), public, trust},
		"no name":        {changed(func(c *x509.Certificate) { c.Extensions = nil }), public, trust},
		"another unknown extension": {changed(func(c *x509.Certificate) {
			c.UnhandledCriticalExtensions = append(append(c.UnhandledCriticalExtensions[:0:0], c.UnhandledCriticalExtensions...), oidEKCertificate())
		}), public, trust},
	} {
		if _, err := VerifyEK(c.cert, c.public, c.roots); !errors.Is(err, ErrEKCertificate) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := VerifyEK(cert, bound.AK.Marshal(), trust); !errors.Is(err, ErrKey) {
		t.Errorf("an AK for an EK: %v", err)
	}
}

func FuzzPublic(f *testing.F) {
	_, _, b, _ := vectors(f)
	f.Add(b.AK.Marshal())
	f.Add(b.Counter.Marshal())
	f.Add(bindingOf(f).EKPublic)
	f.Fuzz(func(t *testing.T, data []byte) {
		if ak, err := ParseAK(data); err == nil {
			again, err := ParseAK(ak.Marshal())
			if err != nil || !bytes.Equal(again.Name(), ak.Name()) {
				t.Errorf("%x: %v", data, err)
			}
		}
		if c, err := ParseCounter(data); err == nil && len(c.Name()) != 34 {
			t.Error("name")
		}
		if key, err := ParseEK(data); (key == nil) != (err != nil) {
			t.Error("key and error")
		}
	})
}

func FuzzBinding(f *testing.F) {
	f.Add(vector(f, "ak-binding.json"))
	f.Add([]byte(`{"activation":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := ParseBinding(data)
		if err != nil {
			return
		}
		if _, err := b.Verify(); err != nil {
			return
		}
		text, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParseBinding(text); err != nil {
			t.Fatal(err)
		} else if _, err := again.Verify(); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzSAN(f *testing.F) {
	_, _, b, _ := vectors(f)
	for _, extension := range b.EKCertificate.Extensions {
		f.Add(extension.Value)
	}
	f.Fuzz(func(_ *testing.T, der []byte) {
		var m Maker
		m.readSAN(der)
	})
}

func FuzzSelection(f *testing.F) {
	f.Add("sha256:0,1,2,3,4,5,6,7")
	f.Fuzz(func(t *testing.T, text string) {
		sel, err := ParseSelection(text)
		if err != nil {
			return
		}
		if again, err := ParseSelection(sel.String()); err != nil || again != sel {
			t.Errorf("%q becomes %q", text, sel)
		}
	})
}
