// Package policybundle makes signed policy bundles for tests, in OPA's format and without OPA: what OPA's own verifier
// accepts was made by somebody else. Signed and unsigned, whole and broken; a Bundle belongs to one test. Reloading says whether
// answers are those of the bundles that replaced each other.
package policybundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// Signatures is the file that signs the others.
const Signatures = ".signatures.json"

// Bundle is the files of a bundle by name.
type Bundle map[string]string

// New is a bundle that permits whatever the clause says at all three points, with a test of its own that passes.
func New(revision uint64, clause string) Bundle {
	b := Bundle{
		".manifest":   `{"revision":"` + strconv.FormatUint(revision, 10) + `","rego_version":1,"roots":["signet"]}`,
		"x_test.rego": "package signet.x_test\n\ntest_passes if true\n",
	}
	for _, point := range []string{"spawn", "token", "access"} {
		b[point+".rego"] = "package signet." + point + "\n\ndefault allow := false\n\nallow if " + clause + "\n"
	}
	return b
}

// With is the bundle with one more or another file.
func (b Bundle) With(name, text string) Bundle {
	out := maps.Clone(b)
	out[name] = text
	return out
}

// Claims are what a signature says, before it is made.
type Claims struct {
	Files []File `json:"files"`
	KeyID string `json:"keyid,omitempty"`
	Scope string `json:"scope,omitempty"`
}

// File is one signed file.
type File struct {
	Name      string `json:"name"`
	Hash      string `json:"hash"`
	Algorithm string `json:"algorithm"`
}

// Sign adds the signature by key, whose id stands in the token's header. Each change is made to the claims before.
func (b Bundle) Sign(t testing.TB, id string, key crypto.Signer, alg jose.SignatureAlgorithm, changes ...func(*Claims)) Bundle {
	t.Helper()
	var c Claims
	for _, name := range slices.Sorted(maps.Keys(b)) {
		c.Files = append(c.Files, File{Name: name, Hash: digest(t, name, b[name]), Algorithm: "SHA-256"})
	}
	for _, change := range changes {
		change(&c)
	}
	payload, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return b.With(Signatures, `{"signatures":["`+Token(t, id, key, alg, payload)+`"]}`)
}

// Token is a compact JWS over the payload.
func Token(t testing.TB, id string, key any, alg jose.SignatureAlgorithm, payload []byte) string {
	t.Helper()
	o := new(jose.SignerOptions)
	if id != "" {
		o = o.WithHeader("kid", id)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, o)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	out, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// digest is of the bytes, or for JSON of its compact form with sorted keys.
func digest(t testing.TB, name, text string) string {
	t.Helper()
	b := []byte(text)
	if base := path.Base(name); base == "data.json" || base == ".manifest" {
		var v any
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		e := json.NewEncoder(&out)
		e.SetEscapeHTML(false)
		if err := e.Encode(v); err != nil {
			t.Fatal(err)
		}
		b = bytes.TrimSuffix(out.Bytes(), []byte("\n"))
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Archive packs the files as `opa build` does, their names beginning with a slash.
func (b Bundle) Archive(t testing.TB) []byte {
	t.Helper()
	var entries []Entry
	for _, name := range slices.Sorted(maps.Keys(b)) {
		entries = append(entries, Entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: "/" + name, Mode: 0o600}, Data: b[name]})
	}
	return Pack(t, entries...)
}

// Entry is one entry of an archive.
type Entry struct {
	Header tar.Header
	Data   string
}

// Pack makes a .tar.gz of whatever entries.
func Pack(t testing.TB, entries ...Entry) []byte {
	t.Helper()
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	for _, e := range entries {
		if e.Header.Typeflag == tar.TypeReg {
			e.Header.Size = int64(len(e.Data))
		}
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprint(w, e.Data); e.Data != "" && err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
