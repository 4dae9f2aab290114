package opa_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/signet-pki/signet/internal/testrig/policybundle"
	"github.com/signet-pki/signet/policy"
	"github.com/signet-pki/signet/policy/opa"
)

const testKey = "writers-1"

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func publicPEM(t testing.TB, key crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func pinned(t testing.TB, id string, key crypto.PublicKey) *opa.Keys {
	t.Helper()
	k, err := opa.ParseKey(id, publicPEM(t, key))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := opa.NewKeys(k)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// open is what happens to an uploaded archive.
func open(t testing.TB, archive []byte, keys *opa.Keys) (*opa.Engine, error) {
	t.Helper()
	files, err := opa.OpenArchive(archive)
	if err != nil {
		return nil, err
	}
	return opa.New(t.Context(), opa.Options{Bundle: files, Keys: keys, Timeout: 5 * time.Second})
}

func bundleCode(err error) string {
	var b *policy.BundleError
	if !errors.As(err, &b) {
		return ""
	}
	return b.Code
}

func TestSignedBundleByEachAlgorithm(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for alg, key := range map[jose.SignatureAlgorithm]crypto.Signer{jose.ES256: ecKey(t), jose.EdDSA: ed, jose.RS256: rsaKey} {
		b := policybundle.New(7, "input.user.acr == data.wanted").With("wanted/data.json", `"1"`).With(".manifest", `{"revision":"7"}`)
		e, err := open(t, b.Sign(t, testKey, key, alg).Archive(t), pinned(t, testKey, key.Public()))
		if err != nil {
			t.Errorf("%s: %v", alg, err)
			continue
		}
		if b := e.Bundle(); b.Revision != "7" || b.KeyID != testKey || len(b.Tests) != 1 || !b.Tests[0].Passed || b.Digest != e.Digest() {
			t.Errorf("%s: revision %q, key %q, tests %v", alg, b.Revision, b.KeyID, b.Tests)
		}
		if !e.Decide(t.Context(), access()).Allow {
			t.Errorf("%s: the signed bundle does not decide", alg)
		}
		again, err := open(t, e.Archive(), pinned(t, testKey, key.Public()))
		if err != nil || again.Digest() != e.Digest() {
			t.Errorf("%s: its own archive does not verify, or has another digest: %v", alg, err)
		}
		if sum := sha256.Sum256(e.Archive()); hex.EncodeToString(sum[:]) != e.Digest() {
			t.Errorf("%s: the digest is not the archive's", alg)
		}
	}
}

// testdata/opa-build.tar.gz was made by OPA 1.22.2 itself, of the default bundle as it was then:
//
//	opa build -b bundle -r 1 --signing-key policy.key --signing-alg ES256 --claims-file claims.json
//
// with {"keyid":"dev"} in claims.json.
func TestBundleByOPAItself(t *testing.T) {
	archive, err := os.ReadFile("testdata/opa-build.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("testdata/opa-build.pem")
	if err != nil {
		t.Fatal(err)
	}
	key, err := opa.ParseKey("dev", text)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := opa.NewKeys(key)
	if err != nil {
		t.Fatal(err)
	}
	e, err := open(t, archive, keys)
	if err != nil {
		t.Fatal(err)
	}
	if d, b := e.Decide(t.Context(), access()), e.Bundle(); !d.Allow || d.Revision != "1" || b.KeyID != "dev" || b.KeyHash != key.Hash() {
		t.Errorf("%+v %s", d, b.KeyID)
	}
}

// The claim keyid is where `opa build` puts the key id.
func TestKeyIDInTheClaims(t *testing.T) {
	key := ecKey(t)
	byClaim := func(id string) func(*policybundle.Claims) { return func(c *policybundle.Claims) { c.KeyID = id } }
	if _, err := open(t, policybundle.New(1, "true").Sign(t, "", key, jose.ES256, byClaim(testKey)).Archive(t), pinned(t, testKey, key.Public())); err != nil {
		t.Error(err)
	}
	_, err := open(t, policybundle.New(1, "true").Sign(t, testKey, key, jose.ES256, byClaim("other")).Archive(t), pinned(t, testKey, key.Public()))
	if bundleCode(err) != policy.BundleKeyUnknown {
		t.Errorf("two key ids: %v", err)
	}
}

// Each way in which a signature can fail has a code of its own.
func TestSignaturesRefused(t *testing.T) {
	key, other := ecKey(t), ecKey(t)
	keys := pinned(t, testKey, key.Public())
	good := policybundle.New(1, "true").With("data.json", `{"signet":{"a":1}}`)
	signed := good.Sign(t, testKey, key, jose.ES256)
	token := strings.TrimSuffix(strings.TrimPrefix(signed[policybundle.Signatures], `{"signatures":["`), `"]}`)
	parts := strings.Split(token, ".")
	header := func(text string) string {
		return `{"signatures":["` + base64.RawURLEncoding.EncodeToString([]byte(text)) + "." + parts[1] + "." + parts[2] + `"]}`
	}
	hmac := policybundle.Token(t, testKey, publicPEM(t, key.Public()), jose.HS256, []byte(`{"files":[]}`))
	for name, c := range map[string]struct {
		bundle policybundle.Bundle
		code   string
	}{
		"unsigned":          {good, policy.BundleUnsigned},
		"no token":          {good.With(policybundle.Signatures, `{"signatures":[]}`), policy.BundleSignatures},
		"two tokens":        {good.With(policybundle.Signatures, `{"signatures":["`+token+`","`+token+`"]}`), policy.BundleSignatures},
		"a plugin":          {good.With(policybundle.Signatures, `{"signatures":["`+token+`"],"plugin":"x"}`), policy.BundleSignatures},
		"not a token":       {good.With(policybundle.Signatures, `{"signatures":["x"]}`), policy.BundleSignatures},
		"not JSON":          {good.With(policybundle.Signatures, `{`), policy.BundleData},
		"a second file":     {signed.With("x/"+policybundle.Signatures, signed[policybundle.Signatures]), policy.BundleSignatures},
		"unknown key":       {good.Sign(t, "nobody", key, jose.ES256), policy.BundleKeyUnknown},
		"no key id":         {good.Sign(t, "", key, jose.ES256), policy.BundleKeyUnknown},
		"another's key":     {good.Sign(t, testKey, other, jose.ES256), policy.BundleSignature},
		"alg none":          {good.With(policybundle.Signatures, header(`{"alg":"none","kid":"`+testKey+`"}`)), policy.BundleAlgorithm},
		"alg of a hash":     {good.With(policybundle.Signatures, `{"signatures":["`+hmac+`"]}`), policy.BundleAlgorithm},
		"alg of another":    {good.With(policybundle.Signatures, header(`{"alg":"ES384","kid":"`+testKey+`"}`)), policy.BundleAlgorithm},
		"cut signature":     {good.With(policybundle.Signatures, `{"signatures":["`+token[:len(token)-4]+`"]}`), policy.BundleSignature},
		"another scope":     {good.Sign(t, testKey, key, jose.ES256, func(c *policybundle.Claims) { c.Scope = "write" }), policy.BundleSignature},
		"weak hash":         {good.Sign(t, testKey, key, jose.ES256, func(c *policybundle.Claims) { c.Files[0].Algorithm = "MD5" }), policy.BundleAlgorithm},
		"changed rule":      {signed.With("access.rego", "package signet.access\n\nallow := true\n"), policy.BundleFileChanged},
		"changed data":      {signed.With("data.json", `{"signet":{"a":2}}`), policy.BundleFileChanged},
		"one more file":     {signed.With("more.rego", "package signet.more\n"), policy.BundleFileUnsigned},
		"one file less":     {without(signed, "data.json"), policy.BundleFileMissing},
		"twice in the data": {signed.With("data.json", `{"a":2,"a":1}`), policy.BundleData},
		"YAML for JSON":     {signed.With("data.json", "a: 1"), policy.BundleData},
	} {
		if _, err := open(t, c.bundle.Archive(t), keys); bundleCode(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	if _, err := open(t, signed.Archive(t), keys); err != nil {
		t.Errorf("the good one: %v", err)
	}
	none, err := opa.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, signed.Archive(t), none); bundleCode(err) != policy.BundleKeyUnknown {
		t.Errorf("without a pinned key: %v", err)
	}
	if _, err := open(t, signed.Archive(t), nil); bundleCode(err) != policy.BundleFile {
		t.Errorf("as an unsigned bundle: %v", err)
	}
}

func without(b policybundle.Bundle, name string) policybundle.Bundle {
	out := b.With(name, "")
	delete(out, name)
	return out
}

// What is signed properly and must not become active all the same.
func TestSignedAndRefused(t *testing.T) {
	key := ecKey(t)
	keys := pinned(t, testKey, key.Public())
	manifest := func(text string) policybundle.Bundle { return policybundle.New(1, "true").With(".manifest", text) }
	rule := func(text string) policybundle.Bundle { return policybundle.New(1, text) }
	for name, c := range map[string]struct {
		bundle policybundle.Bundle
		code   string
	}{
		"no manifest":      {without(rule("true"), ".manifest"), policy.BundleRevision},
		"no revision":      {manifest(`{}`), policy.BundleRevision},
		"a word":           {manifest(`{"revision":"v7"}`), policy.BundleRevision},
		"zero":             {manifest(`{"revision":"0"}`), policy.BundleRevision},
		"leading zero":     {manifest(`{"revision":"07"}`), policy.BundleRevision},
		"negative":         {manifest(`{"revision":"-7"}`), policy.BundleRevision},
		"too long":         {manifest(`{"revision":"1000000000000000"}`), policy.BundleRevision},
		"number":           {manifest(`{"revision":7}`), policy.BundleManifest},
		"v0 manifest":      {manifest(`{"revision":"1","rego_version":0}`), policy.BundleManifest},
		"v0 syntax":        {rule("true").With("old.rego", "package signet.old\n\nallow { true }\n"), policy.BundleCompile},
		"clock":            {rule("time.now_ns() > 0"), policy.BundleCompile},
		"network":          {rule(`http.send({"method": "get", "url": "http://127.0.0.1"}).status_code == 200`), policy.BundleCompile},
		"recursion":        {rule("true").With("r.rego", "package signet.r\n\na if b\n\nb if a\n"), policy.BundleCompile},
		"data on rules":    {rule("true").With("data.json", `{"signet":{"access":{"allow":true}}}`).With(".manifest", `{"revision":"1"}`), policy.BundleCompile},
		"failing test":     {rule("true").With("y_test.rego", "package signet.y_test\n\ntest_no if false\n"), policy.BundleTests},
		"no test":          {without(rule("true"), "x_test.rego"), policy.BundleTests},
		"deep data":        {rule("true").With("data.json", strings.Repeat(`{"a":`, 40)+"1"+strings.Repeat("}", 40)), policy.BundleData},
		"tiny number":      {rule("true").With("data.json", `{"a":1e-300000000}`), policy.BundleData},
		"much Rego":        {rule("true").With("more.rego", "package signet.more\n"+strings.Repeat("\n", 1<<20)), policy.BundleTooLarge},
		"name not ASCII":   {rule("true").With("é.rego", "package signet.more\n"), policy.BundleFile},
		"name too long":    {rule("true").With(strings.Repeat("x", 120)+".rego", "package signet.more\n"), policy.BundleFile},
		"huge number":      {rule("true").With("data.json", `{"a":1e999999}`), policy.BundleData},
		"number of values": {rule("true").With("data.json", `{"a":[`+strings.Repeat("1,", 260_000)+`1]}`), policy.BundleData},
		"bytes of data":    {manyData(rule("true")), policy.BundleData},
	} {
		if _, err := open(t, c.bundle.Sign(t, testKey, key, jose.ES256).Archive(t), keys); bundleCode(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
}

func manyData(b policybundle.Bundle) policybundle.Bundle {
	for i := range 3 {
		b = b.With("d"+strconv.Itoa(i)+"/data.json", `"`+strings.Repeat("x", 3<<20)+`"`)
	}
	return b
}

// The results of all tests are told when some fail.
func TestResultsOfFailingTests(t *testing.T) {
	b := bundleOf("package signet.access\n\nallow if true\n")
	_, err := opa.New(t.Context(), opa.Options{Bundle: with(b, "y_test.rego", "package signet.y_test\n\ntest_no if false\n\ntest_wrong if to_number(\"x\") == 1\n")})
	var refused *policy.BundleError
	if !errors.As(err, &refused) || len(refused.Tests) != 3 {
		t.Fatalf("%v", err)
	}
	for _, r := range refused.Tests {
		if r.Passed != (r.Name == "data.signet.some_test.test_something") || r.Passed == (r.Detail != "") {
			t.Errorf("%+v", r)
		}
	}
}

// What a test says about its failure is not as long as what it was given.
func TestDetailsOfTestsAreShort(t *testing.T) {
	given := strings.Repeat("é", 50_000)
	b := bundleOf("package signet.access\n\nallow if true\n")
	_, err := opa.New(t.Context(), opa.Options{Bundle: with(b, "y_test.rego", "package signet.y_test\n\ntest_wrong if time.parse_rfc3339_ns(\""+given+"\") == 1\n")})
	var refused *policy.BundleError
	if !errors.As(err, &refused) || len(refused.Tests) != 2 {
		t.Fatalf("%v", err)
	}
	for _, r := range refused.Tests {
		if len(r.Detail) > 520 || !r.Passed && !strings.Contains(r.Detail, "parse_rfc3339_ns") {
			t.Errorf("%d bytes: %.200s", len(r.Detail), r.Detail)
		}
	}
}

// Archives that are larger than they look, or have more in them than can be used.
func TestArchivesRefused(t *testing.T) {
	reg := func(name, data string) policybundle.Entry {
		return policybundle.Entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600}, Data: data}
	}
	link := func(kind byte) policybundle.Entry {
		return policybundle.Entry{Header: tar.Header{Typeflag: kind, Name: "a.rego", Linkname: "/etc/passwd"}}
	}
	var files []policybundle.Entry
	for i := range 600 {
		files = append(files, reg("f"+strconv.Itoa(i)+".rego", ""))
	}
	// Large archives are put together of small gzip members (RFC 1952 §2.2), which are cheap to make.
	mebi := member(t, make([]byte, 1<<20))
	var large, thousand []byte
	for i := range 5 {
		large = slices.Concat(large, member(t, head(t, tar.Header{Typeflag: tar.TypeReg, Name: "f" + strconv.Itoa(i) + ".rego", Size: 4 << 20})), bytes.Repeat(mebi, 4))
	}
	for i := range 1000 {
		thousand = append(thousand, head(t, tar.Header{Typeflag: tar.TypeDir, Name: "d" + strconv.Itoa(i) + "/"})...)
	}
	bomb := append(member(t, head(t, tar.Header{Typeflag: tar.TypeReg, Name: "data.json", Size: 100 << 20})), bytes.Repeat(mebi, 100)...)
	for name, c := range map[string]struct {
		archive []byte
		code    string
	}{
		"symlink":            {policybundle.Pack(t, link(tar.TypeSymlink)), policy.BundleFile},
		"hard link":          {policybundle.Pack(t, link(tar.TypeLink)), policy.BundleFile},
		"device":             {policybundle.Pack(t, link(tar.TypeChar)), policy.BundleFile},
		"climbing":           {policybundle.Pack(t, reg("../a.rego", "x")), policy.BundleFile},
		"twice":              {policybundle.Pack(t, reg("a.rego", "x"), reg("/a.rego", "x")), policy.BundleFile},
		"signatures twice":   {policybundle.Pack(t, reg(policybundle.Signatures, "x"), reg("./"+policybundle.Signatures, "x")), policy.BundleSignatures},
		"deep":               {policybundle.Pack(t, reg(strings.Repeat("a/", 128)+"x.rego", "")), policy.BundleFile},
		"below a file":       {policybundle.Pack(t, reg("a.rego", "x"), reg("a.rego/b.rego", "x")), policy.BundleFile},
		"600 files":          {policybundle.Pack(t, files...), policy.BundleTooLarge},
		"100,000 folders":    {bytes.Repeat(member(t, thousand), 100), policy.BundleTooLarge},
		"20 MB unpacked":     {large, policy.BundleTooLarge},
		"100 MB of one file": {bomb, policy.BundleTooLarge},
		"more than 16 MB":    {make([]byte, 16<<20+1), policy.BundleTooLarge},
		"no gzip":            {[]byte("policy"), policy.BundleUnreadable},
		"cut off":            {policybundle.Pack(t, reg("a.rego", "some text"))[:60], policy.BundleUnreadable},
	} {
		if _, err := opa.OpenArchive(c.archive); bundleCode(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
}

// member is one gzip member.
func member(t testing.TB, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// head is the header of one entry.
func head(t testing.TB, h tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := tar.NewWriter(&out).WriteHeader(&h); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// A sparse file takes no room in the archive: what counts is what it becomes in memory.
func TestSparseFilesCount(t *testing.T) {
	var raw bytes.Buffer
	for i := range 6 {
		raw.Write(sparse("f"+strconv.Itoa(i)+".rego", 4<<20))
	}
	raw.Write(make([]byte, 1024))
	if _, err := opa.OpenArchive(member(t, raw.Bytes())); bundleCode(err) != policy.BundleTooLarge {
		t.Fatalf("%v", err)
	}
}

// sparse is a file that is one hole, in PAX's format 1.0 (GNU tar manual, "PAX Format, Version 1.0").
func sparse(name string, size int) []byte {
	record := func(key, value string) string {
		n := len(key) + len(value) + 3
		for n != len(strconv.Itoa(n))+len(key)+len(value)+3 {
			n = len(strconv.Itoa(n)) + len(key) + len(value) + 3
		}
		return strconv.Itoa(n) + " " + key + "=" + value + "\n"
	}
	pax := record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0") + record("GNU.sparse.name", name) + record("GNU.sparse.realsize", strconv.Itoa(size))
	block := func(text string) []byte { return append([]byte(text), make([]byte, 512-len(text))...) }
	header := func(kind byte, n int) []byte {
		b := make([]byte, 512)
		copy(b, "x")
		copy(b[100:], "0000600\x00")
		copy(b[108:], "0000000\x00")
		copy(b[116:], "0000000\x00")
		copy(b[124:], "00000000000"[:11-len(strconv.FormatInt(int64(n), 8))]+strconv.FormatInt(int64(n), 8)+"\x00")
		copy(b[136:], "00000000000\x00")
		b[156] = kind
		copy(b[257:], "ustar\x0000")
		sum := 8 * int(' ')
		for _, c := range b {
			sum += int(c)
		}
		octal := strconv.FormatInt(int64(sum), 8)
		copy(b[148:], "000000"[:6-len(octal)]+octal+"\x00 ")
		return b
	}
	return slices.Concat(header('x', len(pax)), block(pax), header('0', 512), block("1\n"+strconv.Itoa(size)+"\n0\n"))
}

func TestParseKeyRefuses(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(ecKey(t))
	if err != nil {
		t.Fatal(err)
	}
	good := publicPEM(t, ecKey(t).Public())
	for name, c := range map[string]struct {
		id   string
		text []byte
	}{
		"P-384":    {"k", publicPEM(t, p384.Public())},
		"RSA 1024": {"k", shortRSA(t)},
		"private":  {"k", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})},
		"no PEM":   {"k", []byte("key")},
		"two keys": {"k", slices.Concat(good, good)},
		"large":    {"k", append(make([]byte, 17<<10), good...)},
		"no id":    {"", good},
		"odd id":   {"a b", good},
	} {
		if _, err := opa.ParseKey(c.id, c.text); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	one, err := opa.ParseKey("one", good)
	if err != nil {
		t.Fatal(err)
	}
	two, err := opa.ParseKey("two", good)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := opa.NewKeys(one, two); err == nil {
		t.Error("one key under two ids was taken")
	}
	if _, err := opa.NewKeys(opa.Key{ID: "x"}); err == nil {
		t.Error("a key that nobody parsed was taken")
	}
}

// shortRSA is the public key of a 1024-bit modulus.
func shortRSA(t testing.TB) []byte {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	n := key.N.Rsh(key.N, 1024)
	return publicPEM(t, &rsa.PublicKey{N: n, E: 65537})
}

// What an archive claims to be signed by is read before any signature is verified.
func FuzzSigned(f *testing.F) {
	key := ecKey(f)
	keys := pinned(f, testKey, key.Public())
	signed := policybundle.New(1, "true").Sign(f, testKey, key, jose.ES256)
	f.Add(signed[policybundle.Signatures], signed[".manifest"], "{}")
	f.Add(`{"signatures":["a.b.c"]}`, `{"revision":"2"}`, `[]`)
	f.Fuzz(func(t *testing.T, signatures, manifest, data string) {
		b := files(signed.With(policybundle.Signatures, signatures).With(".manifest", manifest).With("more/data.json", data))
		if _, err := opa.New(t.Context(), opa.Options{Bundle: b, Keys: keys}); err == nil {
			t.Fatal("a file that nobody signed was taken")
		}
	})
}

// The zero Active denies, and so does one whose bundle was taken away.
func TestNothingActiveDenies(t *testing.T) {
	var a opa.Active
	want := []string{policy.ReasonUnavailable}
	if d := a.Decide(t.Context(), access()); d.Allow || !slices.Equal(d.Reasons, want) {
		t.Errorf("%+v", d)
	}
	a.Use(engine(t, opa.Options{Timeout: 5 * time.Second}))
	if d := a.Decide(t.Context(), access()); !d.Allow {
		t.Errorf("%+v", d)
	}
	a.Use(nil)
	if d := a.Decide(t.Context(), access()); d.Allow || !slices.Equal(d.Reasons, want) {
		t.Errorf("%+v", d)
	}
}
