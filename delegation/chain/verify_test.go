package chain

import (
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestVerifyPasses(t *testing.T) {
	for _, hops := range []int{2, 3, 9} {
		w := newWorld(t, hops, elliptic.P256())
		r := Verify(w.input())
		for i, c := range r.Checks {
			if c.Status != Pass || c.Name != CheckNames()[i] || !c.Required {
				t.Errorf("%d hops: %+v", hops, c)
			}
		}
		if !r.Valid || len(r.Checks) != 12 || len(r.Failed()) != 0 || r.Agent.String() != w.last().ID || r.Delegation == nil {
			t.Errorf("%d hops: %+v", hops, r)
		}
	}
}

func TestEachCheckFailsAlone(t *testing.T) {
	seen := map[CheckName]bool{}
	for _, c := range slices.Concat(pathCauses(), hopCauses(), confirmationCauses(), stateCauses()) {
		seen[c.check] = true
		t.Run(c.label(), func(t *testing.T) {
			r := Verify(c.input(t))
			if r.Valid || len(r.Checks) != 12 {
				t.Fatalf("valid %v with %d checks", r.Valid, len(r.Checks))
			}
			for _, got := range r.Checks {
				if got.Name == c.check && (got.Status != Fail || got.Code != c.code) {
					t.Errorf("%+v", got)
				}
				if got.Name != c.check && got.Status == Fail {
					t.Errorf("also: %+v", got)
				}
				if got.Status == NotEvaluated && got.Code == "" {
					t.Errorf("no reason: %+v", got)
				}
			}
		})
	}
	for _, n := range CheckNames() {
		if !seen[n] {
			t.Errorf("no case for %s", n)
		}
	}
}

// A broken SAN leaves no name to bind, so that binding fails with path.
func TestSANRefusals(t *testing.T) {
	for code, san := range map[string]func(w *world) []byte{
		CodeSANMultiple:  func(w *world) []byte { return sequence(uri(w.last().ID), uri(w.last().ID)) },
		CodeSANMalformed: func(w *world) []byte { return sequence(uri(w.last().ID), []byte{0x86}) },
		CodeSPIFFEID:     func(w *world) []byte { return sequence(uri(strings.Replace(w.last().ID, "hospital", "hospitaL", 1))) },
	} {
		t.Run(code, func(t *testing.T) {
			w := newWorld(t, 2, elliptic.P256())
			leaf := w.leaf()
			for i := range leaf.Extensions {
				if isSAN(leaf.Extensions[i].Id) {
					leaf.Extensions[i].Value = san(w)
				}
			}
			in := w.input()
			in.Logged, in.Chain[0] = nil, leaf
			r := Verify(in)
			if got := r.Check(CheckPath); got.Status != Fail || got.Code != code || r.Check(CheckBinding).Code != CodeBindingID || r.Valid {
				t.Errorf("%+v", r)
			}
		})
	}
	w := newWorld(t, 2, elliptic.P256())
	w.template.URIs = nil
	if got := Verify(w.input()).Check(CheckPath); got.Code != CodeSANMissing {
		t.Errorf("%+v", got)
	}
}

// Hops in another order are another chain: the last is not the certificate's subject, and nobody signed it so.
func TestSwappedHops(t *testing.T) {
	w := newWorld(t, 4, elliptic.P256())
	w.d.Hops[2], w.d.Hops[3] = w.d.Hops[3], w.d.Hops[2]
	r := Verify(w.input())
	for name, code := range map[CheckName]string{
		CheckBinding: CodeBindingID, CheckDeadline: CodeHopDeadline, CheckDepth: CodeHopDepth, CheckConfirmation: CodeConfirmationHash,
	} {
		if got := r.Check(name); got.Status != Fail || got.Code != code {
			t.Errorf("%+v, want %s", got, code)
		}
	}
	w = newWorld(t, 4, elliptic.P256())
	w.d.Hops[1], w.d.Hops[2] = w.d.Hops[2], w.d.Hops[1]
	if r := Verify(w.input()); r.Valid || r.Check(CheckBinding).Status != Pass || r.Check(CheckDepth).Code != CodeHopDepth {
		t.Errorf("the parents: %+v", r)
	}
}

// A delegation is for one task: with the parent's from another, the statement about it is not the one that was signed.
func TestParentOfAnotherTask(t *testing.T) {
	w, elsewhere := newWorld(t, 3, elliptic.P256()), newWorld(t, 3, elliptic.P256())
	c := elsewhere.claims(1)
	c.TaskID = testGrant
	c.Issuer, c.Subject, c.KeyHash = w.d.Hops[0].ID, w.d.Hops[1].ID, must[[32]byte](t)(Thumbprint(w.hopKeys[1].Public()))
	w.setDelegation(1, c) // the orchestrator did sign it, for another task
	w.setDelegation(2, w.claims(2))
	if got := Verify(w.input()).Check(CheckConfirmation); got.Status != Fail || got.Code != CodeConfirmationTask {
		t.Errorf("%+v", got)
	}
}

// Who a revocation of a user names is unambiguous, whatever separators an identity provider uses.
func TestUserIDs(t *testing.T) {
	seen := map[string]string{}
	parts := []string{"a", "a,b", "a:b", "a/b", "a b", "a%00b", "a|b", "b", ","}
	for _, issuer := range parts {
		for _, subject := range parts {
			id, pair := UserID(issuer, subject), issuer+" and "+subject
			if other, twice := seen[id]; twice {
				t.Errorf("%s is also %s", pair, other)
			}
			seen[id] = pair
			w := newWorld(t, 2, elliptic.P256())
			w.d.Grant.Issuer, w.d.Grant.Subject = issuer, subject
			in := w.input()
			noDelegations(w, &in)
			in.Require, in.ExpectUser, in.Revocation = nil, &User{Issuer: issuer, Subject: subject}, revoked(RevUser, id)
			if r := Verify(in); r.Check(CheckPrincipal).Status != Pass || r.Check(CheckRevocation).Code != CodeUserRevoked {
				t.Errorf("%s: %+v", pair, r.Failed())
			}
		}
	}
}

func TestNothingIsNotValid(t *testing.T) {
	r := Verify(Input{})
	if r.Valid || len(r.Checks) != 12 || len(r.Failed()) != 6 {
		t.Errorf("%+v", r)
	}
	in := newWorld(t, 2, elliptic.P256()).input()
	in.Trust = nil
	if r := Verify(in); r.Valid || r.Check(CheckPath).Code != CodeNoTrust || r.Check(CheckBinding).Status != Pass {
		t.Errorf("without trust: %+v", r)
	}
	in = newWorld(t, 2, elliptic.P256()).input()
	in.Now, in.Revocation = time.Time{}, nil
	if r := Verify(in); r.Valid || r.Check(CheckPath).Code != CodeClockMissing || r.Check(CheckDeadline).Code != CodeClockMissing {
		t.Errorf("without time: %+v", r)
	}
	in = Input{Chain: []*x509.Certificate{nil}, Trust: &Trust{}}
	if r := Verify(in); r.Valid {
		t.Errorf("nil certificate: %+v", r)
	}
}

func TestRequire(t *testing.T) {
	w := newWorld(t, 2, elliptic.P256())
	in := Input{Chain: []*x509.Certificate{w.leaf(), w.ca}, Trust: &Trust{TrustDomain: testDomain, Roots: []*x509.Certificate{w.root}}, Now: testNow}
	if r := Verify(in); !r.Valid {
		t.Fatalf("%+v", r.Failed())
	}
	for _, n := range CheckNames() {
		in.Require = []CheckName{n}
		r := Verify(in)
		if r.Valid != alwaysRequired(n) || !r.Check(n).Required {
			t.Errorf("require %s: valid %v", n, r.Valid)
		}
	}
	in.Require = []CheckName{"Path"}
	if r := Verify(in); r.Valid || len(r.UnknownRequired) != 1 {
		t.Errorf("an unknown name was ignored: %+v", r)
	}
}

func TestSkewIsForNotBeforeOnly(t *testing.T) {
	in := newWorld(t, 2, elliptic.P256()).input()
	in.Now, in.Skew = testNow.Add(-32*time.Second), 2*time.Second
	in.Revocation = feed{at: in.Now}
	if r := Verify(in); !r.Valid {
		t.Errorf("%+v", r.Failed())
	}
	in.Now, in.Skew = testNow.Add(-30*time.Second-MaxSkew-time.Second), time.Hour
	if r := Verify(in); r.Check(CheckDeadline).Code != CodeNotYetValid {
		t.Errorf("a skew above the limit counts: %+v", r)
	}
}

func TestPartialConfirmation(t *testing.T) {
	for name, c := range map[string]struct {
		change func(in *Input)
		status Status
		code   string
	}{
		"no grant document": {func(in *Input) { in.GrantDocument = nil }, Pass, ""},
		"a JWS absent":      {func(in *Input) { in.Delegations[1] = "" }, NotEvaluated, CodeNoConfirmation},
		"nothing":           {func(in *Input) { in.Delegations = nil }, NotEvaluated, CodeNoConfirmation},
		"no keys":           {func(in *Input) { in.Keys = nil }, NotEvaluated, CodeNoDelegatorKey},
		"one bad, one absent": {func(in *Input) {
			in.Delegations[2], in.Delegations[1] = in.Delegations[1], ""
		}, Fail, CodeConfirmationHash},
	} {
		in := newWorld(t, 3, elliptic.P256()).input()
		c.change(&in)
		r := Verify(in)
		if got := r.Check(CheckConfirmation); got.Status != c.status || got.Code != c.code || r.Valid != (c.status == Pass) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	w := newWorld(t, 3, elliptic.P256())
	w.doc.OrchestratorKey[0]++
	w.sign()
	if got := Verify(w.input()).Check(CheckConfirmation); got.Status != NotEvaluated || got.Code != CodeOrchestratorKey {
		t.Errorf("another key of the orchestrator: %+v", got)
	}
	w = newWorld(t, 3, elliptic.P256())
	c := w.claims(2)
	c.EnrolHash, c.KeyHash = &c.KeyHash, [32]byte{}
	sum := *c.EnrolHash
	sum[0] = 1
	c.EnrolHash = &sum
	w.setDelegation(2, c)
	if got := Verify(w.input()).Check(CheckConfirmation); got.Status != Pass {
		t.Errorf("enrolment: %+v", got)
	}
}

// What NewTrust remembers never changes an answer.
func TestPreparedTrust(t *testing.T) {
	for _, c := range slices.Concat(pathCauses(), hopCauses()) {
		in := c.input(t)
		if len(in.Chain) < 2 || in.Chain[1] == nil || in.Trust == nil || c.name == "another root" || c.name == "no roots" {
			continue
		}
		trust, err := NewTrust(in.Trust.TrustDomain, in.Trust.Roots, in.Chain[1:2])
		if err != nil {
			continue
		}
		plain := Verify(in)
		in.Trust = trust
		for range 2 { // the second time a path may be remembered
			if prepared := Verify(in); prepared.Check(CheckPath).Code != plain.Check(CheckPath).Code || prepared.Valid != plain.Valid {
				t.Errorf("%s: %+v, prepared %+v", c.label(), plain.Check(CheckPath), prepared.Check(CheckPath))
			}
		}
	}
	w := newWorld(t, 2, elliptic.P384())
	trust := must[*Trust](t)(NewTrust(testDomain, []*x509.Certificate{w.root}, []*x509.Certificate{w.ca}))
	if len(trust.anchors) != 1 {
		t.Error("nothing was remembered")
	}
	in := w.input()
	in.Trust = trust
	if got := Verify(in).Check(CheckPath); got.Status != Pass || len(trust.paths.m) != 1 {
		t.Errorf("%+v, %d paths remembered", got, len(trust.paths.m))
	}
	forged := must[*x509.Certificate](t)(x509.ParseCertificate(slices.Clone(w.leaf().Raw)))
	forged.Raw = slices.Clone(forged.Raw)
	forged.Raw[len(forged.Raw)-1] ^= 1
	forged = must[*x509.Certificate](t)(x509.ParseCertificate(forged.Raw))
	bad := in
	bad.Chain = []*x509.Certificate{forged, w.ca}
	if got := Verify(bad).Check(CheckPath); got.Status != Fail {
		t.Errorf("another signature over what is remembered: %+v", got)
	}
	in.Now = w.ca.NotBefore.Add(-time.Second)
	if got := Verify(in).Check(CheckPath); got.Status != Fail {
		t.Errorf("remembered, before the CA's time: %+v", got)
	}
	in.Now = w.root.NotAfter.Add(time.Second)
	if got := Verify(in).Check(CheckPath); got.Code != CodeCAExpired {
		t.Errorf("root and CA expired: %+v", got)
	}
	if len(trust.verifiedAt(in.Now).Subjects()) != 0 { //nolint:staticcheck // the pool is ours, not the system's
		t.Error("a CA below an expired root still counts")
	}
}

// What Examine remembers never changes an answer, and is no answer about another certificate.
func TestKnown(t *testing.T) {
	other := Examine(newWorld(t, 3, elliptic.P256()).leaf())
	for _, c := range slices.Concat(pathCauses(), hopCauses(), confirmationCauses(), stateCauses()) {
		in := c.input(t)
		want := Verify(in)
		if len(in.Chain) > 0 {
			in.Known = Examine(in.Chain[0])
		}
		for name, known := range map[string]*Known{"its own": in.Known, "another's": other, "nothing": {}} {
			in.Known = known
			if got := Verify(in); got.Valid != want.Valid || !reflect.DeepEqual(got.Checks, want.Checks) || got.Agent != want.Agent {
				t.Errorf("%s, %s: %+v, want %+v", c.label(), name, got, want)
			}
		}
	}
}

// What ExamineChain remembers changes no answer either, and a path that was not found is not looked for again, by as many as
// ask: it denies also when a new look would find one. It says nothing of another chain with the same leaf.
func TestExamineChain(t *testing.T) {
	for _, c := range slices.Concat(pathCauses(), hopCauses(), confirmationCauses(), stateCauses()) {
		in := c.input(t)
		want := Verify(in)
		in.Known = ExamineChain(in.Chain)
		for range 2 {
			if got := Verify(in); got.Valid != want.Valid || !reflect.DeepEqual(got.Checks, want.Checks) || got.Agent != want.Agent {
				t.Errorf("%s: %+v, want %+v", c.label(), got, want)
			}
		}
	}
	in := newWorld(t, 2, elliptic.P256()).input()
	in.Known = ExamineChain(in.Chain)
	early := in
	early.Now = testNow.Add(-100 * 365 * 24 * time.Hour)
	if got := Verify(early).Check(CheckPath); got.Code != CodeCANotYetValid {
		t.Fatalf("%+v", got)
	}
	var asking sync.WaitGroup
	for range 8 {
		asking.Go(func() {
			if got := Verify(in).Check(CheckPath); got.Code != CodeCANotYetValid {
				t.Errorf("looked for again: %+v", got)
			}
		})
	}
	asking.Wait()
	for name, change := range map[string]func(*Input){
		"another chain":  func(in *Input) { in.Chain = append(slices.Clone(in.Chain), in.Chain[1]) },
		"another bundle": func(in *Input) { in.Trust = &Trust{TrustDomain: in.Trust.TrustDomain, Roots: in.Trust.Roots} },
		"of the leaf":    func(in *Input) { in.Known = Examine(in.Chain[0]) },
	} {
		other := in
		change(&other)
		if got := Verify(other).Check(CheckPath); got.Status != Pass {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if ExamineChain(nil) != nil {
		t.Error("something is known of no chain")
	}
}

// A presented CA with a key that Signet never certifies is not even tried.
func TestForeignKeysAreNotTried(t *testing.T) {
	w := newWorld(t, 2, elliptic.P256())
	key := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	ca := issueCert(t, caTemplate("agents", 2, 0), w.root, key.Public(), w.rootKey)
	in := w.input()
	template := *w.template
	template.ExtraExtensions = []pkix.Extension{{Id: OID(), Value: rawMarshal(t, w.d)}}
	in.Chain = []*x509.Certificate{issueCert(t, &template, ca, w.hopKeys[1].Public(), key), ca}
	in.Logged = nil
	if got := Verify(in).Check(CheckPath); got.Code != CodePathUntrusted {
		t.Errorf("%+v", got)
	}
}

func TestNewTrustRefuses(t *testing.T) {
	w, other := newWorld(t, 2, elliptic.P256()), newWorld(t, 2, elliptic.P256())
	leaf := w.leaf()
	for name, err := range map[string]error{
		"no root":   second(NewTrust(testDomain, nil, nil)),
		"domain":    second(NewTrust("Hospital", []*x509.Certificate{w.root}, nil)),
		"leaf":      second(NewTrust(testDomain, []*x509.Certificate{leaf}, nil)),
		"leaf CA":   second(NewTrust(testDomain, []*x509.Certificate{w.root}, []*x509.Certificate{leaf})),
		"unrelated": second(NewTrust(testDomain, []*x509.Certificate{other.root}, []*x509.Certificate{w.ca})),
	} {
		if !errors.Is(err, ErrTrust) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestIdentify(t *testing.T) {
	w := newWorld(t, 2, elliptic.P256())
	w.noExt = true
	service := must[ID](t)(NamedID(testDomain, Service, "records"))
	w.rawSAN = sequence(uri(service.String()), []byte{0x82, 1, 'a'})
	w.ca = w.newCA(func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"a"} })
	chain, trust := []*x509.Certificate{w.leaf(), w.ca}, &Trust{TrustDomain: testDomain, Roots: []*x509.Certificate{w.root}}
	if id, c := Identify(chain, trust, testNow, 0); c.Status != Pass || id != service {
		t.Errorf("%v %+v", id, c)
	}
	for code, now := range map[string]time.Time{
		CodeCertificateNotYet: testNow.Add(-31 * time.Second), CodeCertificateExpired: w.template.NotAfter, CodeClockMissing: {},
	} {
		if id, c := Identify(chain, trust, now, 0); c.Status != Fail || c.Code != code || id != (ID{}) {
			t.Errorf("%s: %v %+v", code, id, c)
		}
	}
	if _, c := Identify(chain, nil, testNow, 0); c.Status == Pass {
		t.Error("passed without trust")
	}
	if _, c := Identify(nil, trust, testNow, 0); c.Code != CodeChainEmpty {
		t.Errorf("%+v", c)
	}
}

func TestReportJSON(t *testing.T) {
	data := must[[]byte](t)(json.Marshal(Verify(newWorld(t, 2, elliptic.P256()).input())))
	if !strings.Contains(string(data), `{"name":"path","status":"pass","required":true}`) || !strings.Contains(string(data), `"agent":"spiffe://`) {
		t.Errorf("%s", data)
	}
}

func TestCertificates(t *testing.T) {
	w := newWorld(t, 2, elliptic.P256())
	block := pemOf("CERTIFICATE", w.ca.Raw)
	for name, c := range map[string]struct {
		data  string
		limit int
		ok    bool
	}{
		"two":            {"\n" + block + "\r\n" + block, 0, true},
		"over the limit": {block + block, 1, false},
		"text between":   {block + "text\n" + block, 0, false},
		"text after":     {block + "text", 0, false},
		"other type":     {pemOf("X509 CRL", w.ca.Raw), 0, false},
		"broken first":   {strings.Replace(block, "\nMII", "\n!!!", 1) + block, 0, false},
		"headers":        {strings.Replace(block, "-----\n", "-----\nA: b\n\n", 1), 0, false},
		"not DER":        {pemOf("CERTIFICATE", []byte{1}), 0, false},
		"empty":          {"", 0, false},
		"too large":      {pemOf("CERTIFICATE", make([]byte, MaxCertificateBytes+1)), 0, false},
		"nine":           {strings.Repeat(block, 9), 100, false},
	} {
		certs, err := ParsePEM([]byte(c.data), c.limit)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrCertificates) || c.ok && len(certs) != 2 {
			t.Errorf("%s: %d certificates, %v", name, len(certs), err)
		}
	}
}

// The keys of a chain may be of different types.
func TestEd25519Hop(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, 3, elliptic.P256())
	w.d.Hops[1].SPKIHash = must[[32]byte](t)(KeyHash(key.Public()))
	c := w.claims(1)
	c.KeyHash = must[[32]byte](t)(Thumbprint(key.Public()))
	w.setDelegation(1, c)
	w.delegations[2] = must[string](t)(SignDelegation(key, w.claims(2)))
	sum := DelegationHash(w.delegations[2])
	w.d.Hops[2].Confirmation = &sum
	in := w.input()
	in.Keys[1] = must[[]byte](t)(x509.MarshalPKIXPublicKey(key.Public()))
	if r := Verify(in); !r.Valid {
		t.Errorf("%+v", r.Failed())
	}
}

// BenchmarkVerifyKnown verifies the same once more: what a service does for each request but the first.
func BenchmarkVerifyKnown(b *testing.B) {
	w := newWorld(b, 4, elliptic.P384())
	certs := []*x509.Certificate{w.leaf(), w.ca}
	in := Input{
		Chain: certs, Trust: must[*Trust](b)(NewTrust(testDomain, []*x509.Certificate{w.root}, []*x509.Certificate{w.ca})), Now: testNow,
		RequiredScope: mustScope(b, "database:read:patients"), Revocation: feed{at: testNow}, MaxStaleness: time.Minute, Known: Examine(certs[0]),
	}
	b.ReportAllocs()
	for b.Loop() {
		if r := Verify(in); !r.Valid {
			b.Fatal(r.Failed())
		}
	}
}

// BenchmarkVerifyCold parses and verifies a chain of four hops below a P-384 root.
func BenchmarkVerifyCold(b *testing.B) {
	w := newWorld(b, 4, elliptic.P384())
	raw := [][]byte{w.leaf().Raw, w.ca.Raw}
	trust := must[*Trust](b)(NewTrust(testDomain, []*x509.Certificate{w.root}, []*x509.Certificate{w.ca}))
	required := mustScope(b, "database:read:patients")
	for name, t := range map[string]*Trust{"prepared": trust, "literal": {TrustDomain: testDomain, Roots: trust.Roots}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				certs, err := ParseDER(raw, 0)
				if err != nil {
					b.Fatal(err)
				}
				if r := Verify(Input{Chain: certs, Trust: t, Now: testNow, RequiredScope: required, Revocation: feed{at: testNow}, MaxStaleness: time.Minute}); !r.Valid {
					b.Fatal(r.Failed())
				}
			}
		})
	}
}
