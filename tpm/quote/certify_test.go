package quote

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"testing"
)

// certified are the vectors that `go test ./tpm -run TestCertify -update` makes.
func certified(t testing.TB) (ak *AK, s Statement, public, qualifying []byte) {
	t.Helper()
	ak, err := ParseAK(vector(t, "devid-ak.pub"))
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("signet test vector"))
	return ak, Statement{Attest: vector(t, "devid.certify"), Signature: vector(t, "devid.certify.sig")}, vector(t, "devid.pub"), digest[:]
}

func TestVerifyCertify(t *testing.T) {
	ak, s, public, qualifying := certified(t)
	for _, form := range [][]byte{public, append([]byte{0, byte(len(public))}, public...)} {
		if key, err := ak.VerifyCertify(s, qualifying, form); err != nil || key.Equal(ak.Public()) {
			t.Errorf("%v, %v", key, err)
		}
	}
	for what, data := range map[string][]byte{"attest": s.Attest, "signature": s.Signature, "public": public, "qualifying": qualifying} {
		for bit := range len(data) * 8 {
			data[bit/8] ^= 1 << (bit % 8)
			if _, err := ak.VerifyCertify(s, qualifying, public); err == nil {
				t.Errorf("%s: bit %d is not seen", what, bit)
			}
			data[bit/8] ^= 1 << (bit % 8)
		}
	}
}

// renamed makes the statement about another public area, so that the check under test is the only one that fails.
func renamed(t *testing.T, ak *AK, s Statement, old, public []byte) (*AK, Statement) {
	t.Helper()
	s.Attest = bytes.Replace(s.Attest, name(old), name(public), 1)
	key, s := resign(t, s)
	return &AK{public: ak.public, key: key}, s
}

// TestVerifyCertifyRefuses changes one property of the certified key at a time; offsets as in TestParseAKRefuses.
func TestVerifyCertifyRefuses(t *testing.T) {
	ak, s, public, qualifying := certified(t)
	for what, bad := range map[string][]byte{
		"not fixedTPM":    flip(public, 7, attrFixedTPM),
		"not fixedParent": flip(public, 7, attrFixedParent),
		"imported":        flip(public, 7, attrSensitiveDataOrigin),
		"restricted":      flip(public, 5, attrRestricted>>16),
		"decrypts":        flip(public, 5, attrDecrypt>>16),
		"does not sign":   flip(public, 5, attrSign>>16),
		"other name hash": flip(public, 3, 7),
	} {
		key, statement := renamed(t, ak, s, public, bad)
		if _, err := key.VerifyCertify(statement, qualifying, bad); !errors.Is(err, ErrKey) || errors.Is(err, ErrName) {
			t.Errorf("%s: %v", what, err)
		}
	}
	good := bytes.Clone(public)
	key, statement := renamed(t, ak, s, public, good)
	if _, err := key.VerifyCertify(statement, qualifying, good); err != nil {
		t.Errorf("unchanged: %v", err)
	}
}

func TestVerifyCertifyFailures(t *testing.T) {
	ak, s, public, qualifying := certified(t)
	q, _, b, _ := vectors(t)
	for _, tc := range []struct {
		what   string
		ak     *AK
		s      Statement
		public []byte
		about  []byte
		want   error
	}{
		{"a quote", ak, q, public, qualifying, ErrType},
		{"another AK", &AK{public: ak.public, key: b.AK.Public()}, s, public, qualifying, ErrSignature},
		{"another key", ak, s, ak.Marshal(), qualifying, ErrName},
		{"about something else", ak, s, public, sum([]byte("x")), ErrQualifying},
		{"about nothing", ak, s, public, nil, ErrQualifying},
		{"trailing bytes", ak, Statement{Attest: append(bytes.Clone(s.Attest), 0), Signature: s.Signature}, public, qualifying, ErrMalformed},
		{"cut short", ak, Statement{Attest: s.Attest[:len(s.Attest)-1], Signature: s.Signature}, public, qualifying, ErrMalformed},
		{"PCR values too", ak, Statement{Attest: s.Attest, Signature: s.Signature, PCRs: []byte{1}}, public, qualifying, ErrMalformed},
		{"no public area", ak, s, nil, qualifying, ErrMalformed},
		{"a made-up magic", ak, Statement{Attest: patch(s.Attest, 0, 0), Signature: s.Signature}, public, qualifying, ErrMagic},
	} {
		if _, err := tc.ak.VerifyCertify(tc.s, tc.about, tc.public); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.what, err, tc.want)
		}
	}
}

func FuzzCertify(f *testing.F) {
	ak, s, public, qualifying := certified(f)
	f.Add(s.Attest, s.Signature, public)
	f.Fuzz(func(t *testing.T, attest, signature, key []byte) {
		_, err := ak.VerifyCertify(Statement{Attest: attest, Signature: signature}, qualifying, key)
		if err == nil && !bytes.Equal(attest, s.Attest) {
			t.Error("a forged statement verifies")
		}
	})
}
