package chain

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// node is a piece of DER that can be written wrongly.
type node struct {
	tag    byte
	body   []byte
	kids   []*node
	length func(n int) []byte // nil: DER
}

func parseNodes(tb testing.TB, der []byte) []*node {
	tb.Helper()
	var out []*node
	for s := cryptobyte.String(der); !s.Empty(); {
		var body cryptobyte.String
		var tag asn1.Tag
		if !s.ReadAnyASN1(&body, &tag) {
			tb.Fatal("not DER")
		}
		n := &node{tag: byte(tag), body: body}
		if n.tag&0x20 != 0 {
			n.kids, n.body = parseNodes(tb, body), nil
		}
		out = append(out, n)
	}
	return out
}

func (n *node) encode() []byte {
	body := bytes.Clone(n.body)
	for _, k := range n.kids {
		body = append(body, k.encode()...)
	}
	length := n.length
	if length == nil {
		length = derLength
	}
	return append(append([]byte{n.tag}, length(len(body))...), body...)
}

func derLength(n int) []byte {
	switch {
	case n < 0x80:
		return []byte{byte(n)}
	case n < 0x100:
		return []byte{0x81, byte(n)}
	}
	return []byte{0x82, byte(n >> 8), byte(n)}
}

func longLength(n int) []byte { return []byte{0x83, 0, byte(n >> 8), byte(n)} }

// at walks down by child numbers.
func (n *node) at(path ...int) *node {
	for _, i := range path {
		n = n.kids[i]
	}
	return n
}

// fixedDelegation is the one that the test vectors hold.
func fixedDelegation(tb testing.TB) Delegation {
	notAfter := time.Date(2026, 11, 20, 13, 0, 0, 0, time.UTC)
	confirmation := sha256.Sum256([]byte("jws"))
	return Delegation{
		TaskID: must[[16]byte](tb)(ParseUUID(testTask)),
		Grant: Grant{
			Issuer: testIssuer, Subject: "physician-x", GrantID: must[[16]byte](tb)(ParseUUID(testGrant)), Consent: OIDCNonce,
			EvidenceHash: sha256.Sum256([]byte("evidence")), Scope: mustScope(tb, "database:read:*", "fhir:read:*"), NotAfter: notAfter, MaxDepth: 2,
		},
		Hops: []Hop{
			{
				ID: "spiffe://hospital.example/orchestrator/langgraph", SPKIHash: sha256.Sum256([]byte("key 0")), Scope: mustScope(tb, "database:read:*"),
				NotAfter: notAfter, MaxDepth: 2,
			},
			{
				ID: "spiffe://hospital.example/agent/research/" + agentUUID(1), SPKIHash: sha256.Sum256([]byte("key 1")),
				Scope: mustScope(tb, "database:read:patients"), NotAfter: notAfter.Add(-time.Minute), MaxDepth: 1, Confirmation: &confirmation,
			},
		},
	}
}

type extensionVector struct {
	Name string `json:"name"`
	DER  string `json:"der"`            // hex
	Code string `json:"code,omitempty"` // empty: accepted
}

// The children of the extension, of a grant and of a hop, by number.
const (
	atVersion, atTask, atGrant, atHops                     = 0, 1, 2, 3
	atIssuer, atSubject, atGrantID, atConsent, atEvidence  = 0, 1, 2, 3, 4
	atGrantScope, atGrantTime, atGrantDepth                = 5, 6, 7
	atID, atSPKI, atScope, atTime, atDepth, atConfirmation = 0, 1, 2, 3, 4, 5
)

func derMutations() []struct {
	name, code string
	change     func(root *node)
} {
	body := func(s string, path ...int) func(*node) { return func(r *node) { r.at(path...).body = []byte(s) } }
	tag := func(b byte, path ...int) func(*node) { return func(r *node) { r.at(path...).tag = b } }
	drop := func(i int, path ...int) func(*node) {
		return func(r *node) { n := r.at(path...); n.kids = append(n.kids[:i:i], n.kids[i+1:]...) }
	}
	add := func(k *node, path ...int) func(*node) {
		return func(r *node) { n := r.at(path...); n.kids = append(n.kids, k) }
	}
	long := func(path ...int) func(*node) { return func(r *node) { r.at(path...).length = longLength } }
	null := &node{tag: 5}
	return []struct {
		name, code string
		change     func(root *node)
	}{
		{"valid", "", func(*node) {}},
		{"valid without confirmation", "", drop(atConfirmation, atHops, 1)},
		{"valid, depth -1 is for the check depth", "", body("\xff", atHops, 1, atDepth)},
		{"outer SET", CodeDER, tag(0x31)},
		{"outer length not minimal", CodeDER, long()},
		{"indefinite length", CodeDER, func(r *node) { r.length = func(int) []byte { return []byte{0x80} }; r.kids = append(r.kids, &node{}) }},
		{"version 0", CodeVersion, body("\x00", atVersion)},
		{"version 2", CodeVersion, body("\x02", atVersion)},
		{"version not minimal", CodeDERInteger, body("\x00\x01", atVersion)},
		{"version empty", CodeDERInteger, body("", atVersion)},
		{"version ENUMERATED", CodeDER, tag(0x0a, atVersion)},
		{"task id of 15 bytes", CodeIdentifier, body("123456789012345", atTask)},
		{"task id of 17 bytes", CodeIdentifier, body("12345678901234567", atTask)},
		{"task id zero", CodeIdentifier, body(strings.Repeat("\x00", 16), atTask)},
		{"task id BIT STRING", CodeDER, tag(0x03, atTask)},
		{"task id constructed", CodeDER, tag(0x24, atTask)},
		{"no grant", CodeDER, drop(atGrant)},
		{"no hops", CodeDER, drop(atHops)},
		{"something after the hops", CodeDERTrailing, add(null)},
		{"something after the grant's depth", CodeDERTrailing, add(null, atGrant)},
		{"issuer empty", CodeText, body("", atGrant, atIssuer)},
		{"issuer too long", CodeText, body(strings.Repeat("a", MaxIssuerBytes+1), atGrant, atIssuer)},
		{"issuer PrintableString", CodeDER, tag(0x13, atGrant, atIssuer)},
		{"issuer length not minimal", CodeDER, long(atGrant, atIssuer)},
		{"issuer with a zero byte", CodeText, body("https://a\x00b", atGrant, atIssuer)},
		{"subject not UTF-8", CodeText, body("a\xff", atGrant, atSubject)},
		{"subject too long", CodeText, body(strings.Repeat("a", MaxSubjectBytes+1), atGrant, atSubject)},
		{"subject with a zero byte", CodeText, body("a\x00b", atGrant, atSubject)},
		{"subject with a C1 control", CodeText, body("a\u0085b", atGrant, atSubject)},
		{"grant id zero", CodeIdentifier, body(strings.Repeat("\x00", 16), atGrant, atGrantID)},
		{"consent type 0", CodeConsent, body("\x00", atGrant, atConsent)},
		{"consent type 5", CodeConsent, body("\x05", atGrant, atConsent)},
		{"consent type not minimal", CodeDER, body("\x00\x01", atGrant, atConsent)},
		{"consent type INTEGER", CodeDER, tag(0x02, atGrant, atConsent)},
		{"evidence hash of 31 bytes", CodeHash, body(strings.Repeat("a", 31), atGrant, atEvidence)},
		{"evidence hash zero", CodeHash, body(strings.Repeat("\x00", 32), atGrant, atEvidence)},
		{"grant scope empty", CodeScope, func(r *node) { r.at(atGrant, atGrantScope).kids = nil }},
		{"grant scope duplicate", CodeScope, body("database:read:*", atGrant, atGrantScope, 1)},
		{"grant scope of 65 tokens", CodeScope, func(r *node) {
			for i := range MaxTokens - 1 {
				r.at(atGrant, atGrantScope).kids = append(r.at(atGrant, atGrantScope).kids, &node{tag: 0x0c, body: []byte{'a', byte('!' + 1 + i%60)}})
			}
		}},
		{"scope token lone wildcard", CodeScope, body("*", atGrant, atGrantScope, 0)},
		{"scope token not ASCII", CodeScope, body("d\u0430tabase:read", atGrant, atGrantScope, 0)},
		{"scope token of two wildcards", CodeScope, body("a:**", atGrant, atGrantScope, 0)},
		{"scope token with an empty segment", CodeScope, body("a::b", atGrant, atGrantScope, 0)},
		{"scope token too long", CodeScope, body(strings.Repeat("a", MaxTokenBytes+1), atGrant, atGrantScope, 0)},
		{"scope token IA5String", CodeDER, tag(0x16, atGrant, atGrantScope, 0)},
		{"scope SET", CodeDER, tag(0x31, atGrant, atGrantScope)},
		{"time with fraction", CodeTime, body("20261120130000.5Z", atGrant, atGrantTime)},
		{"time without seconds", CodeTime, body("202611201300Z", atGrant, atGrantTime)},
		{"time with offset", CodeTime, body("20261120130000+0000", atGrant, atGrantTime)},
		{"time local", CodeTime, body("20261120130000", atGrant, atGrantTime)},
		{"time 30 February", CodeTime, body("20260230130000Z", atGrant, atGrantTime)},
		{"time leap second", CodeTime, body("20261120135960Z", atGrant, atGrantTime)},
		{"time before 1970", CodeTime, body("19691120130000Z", atGrant, atGrantTime)},
		{"time UTCTime", CodeDER, tag(0x17, atGrant, atGrantTime)},
		{"depth of two bytes", CodeDERInteger, body("\x01\x00", atGrant, atGrantDepth)},
		{"hops SET", CodeDER, tag(0x31, atHops)},
		{"one hop", CodeHopCount, drop(1, atHops)},
		{"eleven hops", CodeHopCount, func(r *node) {
			for range 9 {
				r.at(atHops).kids = append(r.at(atHops).kids, r.at(atHops, 1))
			}
		}},
		{"hop SET", CodeDER, tag(0x31, atHops, 1)},
		{"hop id not SPIFFE", CodeHopID, body("https://hospital.example/agent/a/b", atHops, 1, atID)},
		{"hop id upper-case domain", CodeHopID, body("spiffe://Hospital.example/orchestrator/langgraph", atHops, 0, atID)},
		{"hop 0 a service", CodeHopKind, body("spiffe://hospital.example/service/records", atHops, 0, atID)},
		{"hop 1 an orchestrator", CodeHopKind, body("spiffe://hospital.example/orchestrator/b", atHops, 1, atID)},
		{"hop of another domain", CodeHopTrustDomain, body("spiffe://clinic.example/agent/research/"+agentUUID(1), atHops, 1, atID)},
		{"hop key hash of 33 bytes", CodeHash, body(strings.Repeat("a", 33), atHops, 1, atSPKI)},
		{"hop key hash zero", CodeHash, body(strings.Repeat("\x00", 32), atHops, 1, atSPKI)},
		{"hop scope empty", CodeScope, func(r *node) { r.at(atHops, 1, atScope).kids = nil }},
		{"hop time with fraction", CodeTime, body("20261120130000.0Z", atHops, 1, atTime)},
		{"hop depth not minimal", CodeDERInteger, body("\x00\x01", atHops, 1, atDepth)},
		{"confirmation of 31 bytes", CodeHash, body(strings.Repeat("a", 31), atHops, 1, atConfirmation)},
		{"confirmation explicit", CodeDERTrailing, func(r *node) {
			n := r.at(atHops, 1, atConfirmation)
			*n = node{tag: 0xa0, kids: []*node{{tag: 4, body: n.body}}}
		}},
		{"confirmation universal", CodeDERTrailing, tag(0x04, atHops, 1, atConfirmation)},
		{"confirmation twice", CodeDERTrailing, func(r *node) {
			r.at(atHops, 1).kids = append(r.at(atHops, 1).kids, r.at(atHops, 1, atConfirmation))
		}},
		{"confirmation of the orchestrator", CodeHopConfirmation, func(r *node) {
			r.at(atHops, 0).kids = append(r.at(atHops, 0).kids, r.at(atHops, 1, atConfirmation))
		}},
	}
}

func TestParseStrictly(t *testing.T) {
	der := must[[]byte](t)(fixedDelegation(t).Marshal())
	var made []extensionVector
	add := func(name, code string, der []byte) {
		made = append(made, extensionVector{Name: name, DER: hex.EncodeToString(der), Code: code})
	}
	for _, m := range derMutations() {
		root := parseNodes(t, der)[0]
		m.change(root)
		add(m.name, m.code, root.encode())
	}
	add("empty", CodeDER, nil)
	add("trailing byte", CodeDERTrailing, append(bytes.Clone(der), 0))
	add("cut short", CodeDER, der[:len(der)-1])
	sameVectors(t, "extension.json", made)
	for _, v := range made {
		der := must[[]byte](t)(hex.DecodeString(v.DER))
		d, err := Parse(der)
		if v.Code != "" {
			var refused *FormatError
			if !errors.As(err, &refused) || refused.Code != v.Code {
				t.Errorf("%s: %v, want %s", v.Name, err, v.Code)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
		} else if again, err := d.Marshal(); err != nil || !bytes.Equal(again, der) {
			t.Errorf("%s: written differently: %v", v.Name, err)
		}
	}
}

// Whatever Parse refuses Marshal does not write.
func TestMarshalRefuses(t *testing.T) {
	for name, change := range map[string]func(d *Delegation){
		"no task":        func(d *Delegation) { d.TaskID = [16]byte{} },
		"fraction":       func(d *Delegation) { d.Grant.NotAfter = d.Grant.NotAfter.Add(time.Millisecond) },
		"no time":        func(d *Delegation) { d.Hops[1].NotAfter = time.Time{} },
		"year 10000":     func(d *Delegation) { d.Grant.NotAfter = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"zero token":     func(d *Delegation) { d.Grant.Scope = Scope{Token{}} },
		"no scope":       func(d *Delegation) { d.Hops[0].Scope = nil },
		"depth":          func(d *Delegation) { d.Grant.MaxDepth = 128 },
		"consent":        func(d *Delegation) { d.Grant.Consent = 0 },
		"one hop":        func(d *Delegation) { d.Hops = d.Hops[:1] },
		"subject":        func(d *Delegation) { d.Grant.Subject = "a\nb" },
		"too large":      func(d *Delegation) { d.Grant.Scope, d.Hops[0].Scope = bigScope(64), bigScope(64) },
		"duplicate":      func(d *Delegation) { d.Grant.Scope = append(d.Grant.Scope, d.Grant.Scope[0]) },
		"second is root": func(d *Delegation) { d.Hops[1].ID = d.Hops[0].ID },
	} {
		d := fixedDelegation(t)
		change(&d)
		var refused *FormatError
		if der, err := d.Marshal(); !errors.As(err, &refused) {
			t.Errorf("%s: %d bytes, %v", name, len(der), err)
		}
	}
	d := fixedDelegation(t)
	d.Grant.NotAfter = d.Grant.NotAfter.In(time.FixedZone("", 3600))
	if der := must[[]byte](t)(d.Marshal()); !bytes.Contains(der, []byte("20261120130000Z")) {
		t.Error("another zone is not written as UTC")
	}
}

func bigScope(n int) Scope {
	var s Scope
	for i := range n {
		s = append(s, Token{text: strings.Repeat("a", MaxTokenBytes-1) + string(rune('A'+i%58))})
	}
	return s
}

func TestExtract(t *testing.T) {
	der := must[[]byte](t)(fixedDelegation(t).Marshal())
	ext := pkix.Extension{Id: OID(), Value: der}
	for _, c := range []struct {
		exts []pkix.Extension
		want error
	}{
		{[]pkix.Extension{ext}, nil},
		{nil, ErrNoDelegation},
		{[]pkix.Extension{ext, ext}, ErrDuplicate},
		{[]pkix.Extension{{Id: OID(), Critical: true, Value: der}}, ErrCritical},
	} {
		if _, err := Extract(&x509.Certificate{Extensions: c.exts}); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%v, want %v", err, c.want)
		}
	}
	// A certificate with two does not even parse.
	w := newWorld(t, 2, elliptic.P256())
	template := *w.template
	template.ExtraExtensions = []pkix.Extension{ext, ext}
	raw := must[[]byte](t)(x509.CreateCertificate(rand.Reader, &template, w.ca, w.hopKeys[1].Public(), w.key))
	if _, err := ParseDER([][]byte{raw}, 0); !errors.Is(err, ErrCertificates) {
		t.Errorf("extension twice: %v", err)
	}
	if OID().String() != OIDString {
		t.Errorf("OID %s, OIDString %s", OID(), OIDString)
	}
}
