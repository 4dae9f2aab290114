package hsm

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestParseURI(t *testing.T) {
	for _, c := range []struct {
		text, token, object, id, canonical string
	}{
		{"pkcs11:token=issuing;object=key", "issuing", "key", "", "pkcs11:token=issuing;object=key"},
		{"pkcs11:object=key;type=private;token=issuing", "issuing", "key", "", "pkcs11:token=issuing;object=key"},
		{"pkcs11:token=a%20b;object=%6bey", "a b", "key", "", "pkcs11:token=a%20b;object=key"},
		{"pkcs11:token=t;id=%01%aB%ff", "t", "", "\x01\xab\xff", "pkcs11:token=t;id=%01%AB%FF"},
		{"pkcs11:token=t;id=abc", "t", "", "abc", "pkcs11:token=t;id=%61%62%63"},
		{"pkcs11:token=t;object=a&b=c,d+e", "t", "a&b=c,d+e", "", "pkcs11:token=t;object=a&b=c,d+e"},
		{"pkcs11:token=t;object=Schl%C3%BCssel", "t", "Schlüssel", "", "pkcs11:token=t;object=Schl%C3%BCssel"},
		{"pkcs11:token=t;object=a%3Bb%2Fc%3F", "t", "a;b/c?", "", "pkcs11:token=t;object=a%3Bb%2Fc%3F"},
	} {
		t.Run(c.text, func(t *testing.T) {
			u, err := ParseURI(c.text)
			if err != nil {
				t.Fatal(err)
			}
			if u.Token() != c.token || u.Object() != c.object || !bytes.Equal(u.ID(), []byte(c.id)) {
				t.Errorf("token %q object %q id %x", u.Token(), u.Object(), u.ID())
			}
			if u.String() != c.canonical {
				t.Errorf("canonical form is %s, want %s", u, c.canonical)
			}
		})
	}
}

func TestParseURIRefusals(t *testing.T) {
	for _, text := range []string{
		"", "pkcs11", "pkcs11:", "PKCS11:token=t;object=k", " pkcs11:token=t;object=k", "tpm:handle=0x81000001",
		"pkcs11:token=t", "pkcs11:object=k", "pkcs11:token=;object=k", "pkcs11:token=t;object=", "pkcs11:token=t;id=",
		"pkcs11:token=t;object=k;", "pkcs11:;token=t;object=k", "pkcs11:token=t;;object=k", "pkcs11:token=t;object",
		"pkcs11:token=t;object=k;object=k", "pkcs11:token=t;token=u;object=k", "pkcs11:token=t;id=%01;id=%01",
		"pkcs11:token=t;object=k;type=public", "pkcs11:token=t;object=k;type=", "pkcs11:token=t;object=k;Type=private",
		"pkcs11:token=t;object=k;serial=1", "pkcs11:token=t;object=k;slot-id=0", "pkcs11:token=t;object=k;x-vendor=1",
		"pkcs11:token=t;object=k?pin-value=1234", "pkcs11:token=t;object=k?pin-source=/etc/pin", "pkcs11:token=t;object=k?",
		"pkcs11:token=t;object=k?module-path=/tmp/evil.so", "pkcs11:token=t;object=a b", "pkcs11:token=t;object=a/b",
		"pkcs11:token=t;object=k#f", "pkcs11:token=t;object=%", "pkcs11:token=t;object=%4", "pkcs11:token=t;object=%zz",
		"pkcs11:token=t;object=%00", "pkcs11:token=t;object=a%0Ab", "pkcs11:token=t;object=%ff", "pkcs11:token=t%20;object=k",
		"pkcs11:token=t;object=Schlüssel", "pkcs11:token=" + strings.Repeat("x", 33) + ";object=k",
		"pkcs11:token=t;object=" + strings.Repeat("x", 256), "pkcs11:token=t;id=" + strings.Repeat("%01", 65),
		"pkcs11:token=t;object=" + strings.Repeat("x", 2000),
	} {
		t.Run(text, func(t *testing.T) {
			u, err := ParseURI(text)
			if !errors.Is(err, ErrURI) {
				t.Fatalf("error is %v", err)
			}
			if u != (URI{}) {
				t.Errorf("a URI came with the error: %v", u)
			}
		})
	}
}

func FuzzParseURI(f *testing.F) {
	f.Add("pkcs11:token=issuing;object=key;id=%01%02;type=private")
	f.Add("pkcs11:token=a%20b;object=%6bey")
	f.Add("pkcs11:token=t;object=k?pin-value=1")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := ParseURI(text)
		if err != nil {
			return
		}
		again, err := ParseURI(u.String())
		if err != nil || again != u {
			t.Fatalf("%q became %q, which parses as %v, %v", text, u, again, err)
		}
		if u.Token() == "" || u.Object() == "" && u.ID() == nil {
			t.Fatalf("%q names no key", text)
		}
	})
}
