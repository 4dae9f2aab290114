package chain

import (
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"net"
	"slices"
	"strings"
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

func uri(s string) []byte { return append([]byte{0x86, byte(len(s))}, s...) }

func sequence(parts ...[]byte) []byte {
	body := slices.Concat(parts...)
	if len(body) < 0x80 {
		return append([]byte{0x30, byte(len(body))}, body...)
	}
	return append([]byte{0x30, 0x81, byte(len(body))}, body...)
}

// causes lists every way in which exactly one check fails. before changes the world before the leaf is issued, after what
// the relying party gives.
type cause struct {
	check  CheckName
	code   string
	name   string
	before func(w *world)
	after  func(w *world, in *Input)
}

func pathCauses() []cause {
	leafWith := func(code string, change func(c *x509.Certificate)) cause {
		return cause{check: CheckPath, code: code, before: func(w *world) { change(w.template) }}
	}
	caWith := func(code string, change func(c *x509.Certificate)) cause {
		return cause{check: CheckPath, code: code, before: func(w *world) { w.ca = w.newCA(change) }}
	}
	san := func(code, name string, raw func(w *world) []byte) cause {
		return cause{check: CheckPath, code: code, name: name, before: func(w *world) { w.rawSAN = raw(w) }}
	}
	return []cause{
		{check: CheckPath, code: CodeChainTooLong, after: func(w *world, in *Input) {
			in.Chain = append(in.Chain, slices.Repeat([]*x509.Certificate{w.ca}, MaxChain)...)
		}},
		{check: CheckPath, code: CodePathInvalid, after: func(_ *world, in *Input) { in.Chain[1] = nil }},
		{check: CheckPath, code: CodeCertificateTooLarge, before: func(w *world) {
			w.extra = []pkix.Extension{{Id: []int{1, 2, 3, 4}, Value: make([]byte, MaxCertificateBytes)}}
		}},
		{check: CheckPath, code: CodeTrustDomain, after: func(_ *world, in *Input) { in.Trust.TrustDomain = "hospital.example.org" }},
		san(CodeSANOther, "other name", func(w *world) []byte { return sequence(uri(w.last().ID), []byte{0xa0, 2, 5, 0}) }),
		leafWith(CodeSANOther, func(c *x509.Certificate) { c.IPAddresses = []net.IP{{10, 0, 0, 1}} }),
		{check: CheckPath, code: CodeSANOther, name: "e-mail", before: func(w *world) { w.template.EmailAddresses = []string{"a@hospital.example"} }},
		leafWith(CodeLeafIsCA, func(c *x509.Certificate) { c.IsCA = true }),
		leafWith(CodeLeafKeyUsage, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }),
		{check: CheckPath, code: CodeLeafKeyUsage, name: "absent", before: func(w *world) { w.template.KeyUsage = 0 }},
		{check: CheckPath, code: CodeLeafKeyUsage, name: "signs CRLs", before: func(w *world) { w.template.KeyUsage |= x509.KeyUsageCRLSign }},
		leafWith(CodeLeafExtKeyUsage, func(c *x509.Certificate) { c.ExtKeyUsage = nil }),
		{check: CheckPath, code: CodePathUntrusted, name: "another root", after: func(w *world, in *Input) {
			in.Trust.Roots = []*x509.Certificate{newWorld(w.tb, 2, elliptic.P256()).root}
		}},
		{check: CheckPath, code: CodePathUntrusted, name: "issuer absent", after: func(_ *world, in *Input) { in.Chain = in.Chain[:1] }},
		{check: CheckPath, code: CodePathUntrusted, name: "no roots", after: func(_ *world, in *Input) { in.Trust.Roots = nil }},
		caWith(CodeCAExpired, func(c *x509.Certificate) { c.NotAfter = testNow.Add(-time.Second) }),
		caWith(CodeCANotYetValid, func(c *x509.Certificate) { c.NotBefore = testNow.Add(time.Second) }),
		caWith(CodePathNameConstraint, func(c *x509.Certificate) { c.PermittedURIDomains = []string{"clinic.example"} }),
		caWith(CodePathKeyUsage, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }),
		{check: CheckPath, code: CodePathCritical, before: func(w *world) {
			w.extra = []pkix.Extension{{Id: []int{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
		}},
		{check: CheckPath, code: CodePathInvalid, name: "path too long", before: func(w *world) {
			root := caTemplate("root", 1, 0)
			w.root = issueCert(w.tb, root, root, w.rootKey.Public(), w.rootKey)
		}},
	}
}

func hopCauses() []cause {
	return []cause{
		{check: CheckFormat, code: CodeExtensionMissing, before: func(w *world) { w.noExt = true }},
		{check: CheckFormat, code: CodeExtensionCritical, before: func(w *world) { w.critical = true }},
		{check: CheckFormat, code: CodeExtensionTooLarge, before: func(w *world) { w.der = make([]byte, MaxExtensionBytes+1) }},
		{check: CheckFormat, code: CodeDERTrailing, before: func(w *world) { w.der = append(rawMarshal(w.tb, w.d), 0) }},
		{check: CheckFormat, code: CodeHopKind, before: func(w *world) { w.d.Hops[0].ID = w.d.Hops[1].ID }},
		{check: CheckFormat, code: CodeHopKind, name: "two orchestrators", before: func(w *world) { w.d.Hops[1].ID = w.d.Hops[0].ID }},
		{check: CheckFormat, code: CodeHopTrustDomain, before: func(w *world) {
			w.d.Hops[1].ID = strings.Replace(w.d.Hops[1].ID, "hospital", "clinic", 1)
		}},
		{check: CheckFormat, code: CodeHopConfirmation, before: func(w *world) { w.d.Hops[0].Confirmation = w.d.Hops[1].Confirmation }},
		{check: CheckBinding, code: CodeBindingID, before: func(w *world) {
			w.d.Hops[2].ID = strings.Replace(w.d.Hops[2].ID, "research", "coding", 1)
			w.sign()
		}},
		{check: CheckBinding, code: CodeBindingKey, before: func(w *world) {
			other := newKey(w.tb, elliptic.P256())
			w.d.Hops[2].SPKIHash = must[[32]byte](w.tb)(KeyHash(other.Public()))
		}, after: noDelegations},
		{check: CheckPrincipal, code: CodePrincipal, after: func(_ *world, in *Input) { in.ExpectUser.Subject = "physician-y" }},
		{check: CheckPrincipal, code: CodePrincipal, name: "issuer", after: func(_ *world, in *Input) { in.ExpectUser.Issuer += "/" }},
		{check: CheckPrincipal, code: CodeOrchestratorMismatch, after: func(_ *world, in *Input) { in.ExpectOrchestrator += "2" }},
		{check: CheckAttenuation, code: CodeGrantScope, before: func(w *world) {
			w.doc.Scope = mustScope(w.tb, "database:read:patients")
			w.d.Grant.Scope = w.doc.Scope
			w.sign()
		}},
		{check: CheckAttenuation, code: CodeHopScope, before: func(w *world) {
			w.d.Hops[2].Scope = append(slices.Clone(w.d.Hops[2].Scope), mustScope(w.tb, "database:write:patients")...)
			w.sign()
		}},
		{check: CheckDeadline, code: CodeGrantDeadline, before: func(w *world) {
			w.doc.NotAfter = w.d.Hops[0].NotAfter.Add(-time.Second)
			w.d.Grant.NotAfter = w.doc.NotAfter
			w.sign()
		}},
		{check: CheckDeadline, code: CodeHopDeadline, before: func(w *world) {
			w.d.Hops[1].NotAfter = w.d.Hops[2].NotAfter.Add(-time.Second)
			w.sign()
		}},
		{check: CheckDeadline, code: CodeCertificateDeadline, before: func(w *world) { w.template.NotAfter = w.template.NotAfter.Add(-time.Second) }},
		{check: CheckDeadline, code: CodeNotYetValid, after: func(_ *world, in *Input) {
			in.Now, in.Skew, in.Revocation = testNow.Add(-32*time.Second), time.Second, feed{at: testNow.Add(-32 * time.Second)}
		}},
		{check: CheckDeadline, code: CodeDeadlinePassed, after: func(w *world, in *Input) {
			// The skew does not help, and the deadline itself is too late.
			in.Now, in.Skew, in.Revocation = w.last().NotAfter, time.Minute, feed{at: w.last().NotAfter}
		}},
		depthCause(CodeDepthTooLarge, func(w *world) { w.d.Grant.MaxDepth = 9 }),
		depthCause(CodeDepthNegative, func(w *world) { w.d.Hops[2].MaxDepth = -1 }),
		depthCause(CodeGrantDepth, func(w *world) { w.d.Hops[0].MaxDepth = 9 }),
		depthCause(CodeHopDepth, func(w *world) { w.d.Hops[2].MaxDepth = w.d.Hops[1].MaxDepth }),
		depthCause(CodeDuplicateID, func(w *world) { w.d.Hops[1].ID = w.d.Hops[2].ID }),
		depthCause(CodeDuplicateKey, func(w *world) { w.d.Hops[1].SPKIHash = w.d.Hops[2].SPKIHash }),
	}
}

func noDelegations(_ *world, in *Input) { in.Delegations, in.Keys, in.GrantDocument = nil, nil, nil }

func depthCause(code string, change func(w *world)) cause {
	return cause{check: CheckDepth, code: code, before: change, after: noDelegations}
}

// signed is a cause in the statement about hop 1, which hop 2 then names as its parent.
func signed(code, name string, change func(c *Claims)) cause {
	return cause{check: CheckConfirmation, code: code, name: name, before: func(w *world) {
		c := w.claims(1)
		change(&c)
		w.setDelegation(1, c)
		w.setDelegation(2, w.claims(2))
	}}
}

func document(name string, change func(w *world)) cause {
	return cause{check: CheckConfirmation, code: CodeGrantMismatch, name: name, before: func(w *world) {
		change(w)
		w.sign()
	}}
}

func confirmationCauses() []cause {
	other := agentUUID(77)
	return []cause{
		{check: CheckConfirmation, code: CodeConfirmationExtra, after: func(_ *world, in *Input) {
			in.Delegations = slices.Clone(in.Delegations)
			in.Delegations[0] = in.Delegations[1]
		}},
		{check: CheckConfirmation, code: CodeConfirmationExtra, name: "too many", after: func(_ *world, in *Input) {
			in.Delegations = append(slices.Clone(in.Delegations), in.Delegations[1])
		}},
		{check: CheckConfirmation, code: CodeConfirmationHash, before: func(w *world) {
			w.delegations[2] = must[string](w.tb)(SignDelegation(w.hopKeys[1], w.claims(2)))
		}},
		{check: CheckConfirmation, code: CodeConfirmationHash, name: "none named", before: func(w *world) { w.d.Hops[2].Confirmation = nil }},
		{check: CheckConfirmation, code: CodeDelegatorKey, after: func(_ *world, in *Input) { in.Keys[1] = in.Keys[0] }},
		{check: CheckConfirmation, code: CodeConfirmationInvalid, before: func(w *world) {
			w.delegations[2] = must[string](w.tb)(SignDelegation(w.hopKeys[0], w.claims(2)))
			sum := DelegationHash(w.delegations[2])
			w.d.Hops[2].Confirmation = &sum
		}},
		signed(CodeConfirmationParties, "iss", func(c *Claims) { c.Issuer += "2" }),
		signed(CodeConfirmationParties, "sub", func(c *Claims) {
			c.Subject, c.JTI = strings.Replace(c.Subject, c.JTI, other, 1), other
		}),
		signed(CodeConfirmationAudience, "", func(c *Claims) { c.Audience += "/2" }),
		signed(CodeConfirmationTask, "", func(c *Claims) { c.TaskID = testGrant }),
		signed(CodeConfirmationScope, "", func(c *Claims) { c.Scope = c.Scope[:1] }),
		signed(CodeConfirmationDeadline, "", func(c *Claims) { c.Expiry = c.Expiry.Add(-time.Second) }),
		signed(CodeConfirmationDepth, "", func(c *Claims) { c.MaxDepth-- }),
		signed(CodeConfirmationParent, "grant", func(c *Claims) { c.ParentHash[0]++ }),
		{check: CheckConfirmation, code: CodeConfirmationParent, name: "hop", before: func(w *world) {
			c := w.claims(2)
			c.ParentHash[0]++
			w.setDelegation(2, c)
		}},
		signed(CodeConfirmationChildKey, "", func(c *Claims) { c.KeyHash[0]++ }),
		{check: CheckConfirmation, code: CodeGrantDocument, after: func(_ *world, in *Input) { in.GrantDocument = append(in.GrantDocument, ' ') }},
		document("user", func(w *world) { w.doc.Subject = "physician-y" }),
		document("grant id", func(w *world) { w.doc.GrantID = testTask }),
		document("task id", func(w *world) { w.doc.TaskID = testGrant }),
		document("scope", func(w *world) { w.doc.Scope = append(slices.Clone(w.doc.Scope), mustScope(w.tb, "x")...) }),
		document("deadline", func(w *world) { w.doc.NotAfter = w.doc.NotAfter.Add(time.Second) }),
		document("depth", func(w *world) { w.doc.MaxDepth-- }),
		document("orchestrator", func(w *world) { w.doc.Orchestrator += "2" }),
		document("origin", func(w *world) { w.doc.Origin += "2" }),
		document("agent types", func(w *world) { w.doc.AgentTypes = []string{"coding"} }),
	}
}

func stateCauses() []cause {
	revokes := func(code string, kind RevKind, id func(w *world, in *Input) string) cause {
		return cause{check: CheckRevocation, code: code, after: func(w *world, in *Input) { in.Revocation = revoked(kind, id(w, in)) }}
	}
	fixed := func(s string) func(*world, *Input) string { return func(*world, *Input) string { return s } }
	return []cause{
		{check: CheckLogged, code: CodeNotLogged, after: func(_ *world, in *Input) {
			in.Logged = func([32]byte) error { return errors.New("not covered") }
		}},
		{check: CheckScope, code: CodeScopeNotCovered, after: func(w *world, in *Input) { in.RequiredScope = mustScope(w.tb, "database:read:wards") }},
		revokes(CodeUserRevoked, RevUser, fixed(UserID(testIssuer, "physician-x"))),
		revokes(CodeGrantRevoked, RevGrant, fixed(testGrant)),
		revokes(CodeTaskRevoked, RevTask, fixed(testTask)),
		revokes(CodeOrchestratorRevoked, RevOrchestrator, fixed("langgraph")),
		revokes(CodeParentRevoked, RevAgent, fixed(agentUUID(1))),
		revokes(CodeAgentRevoked, RevAgent, fixed(agentUUID(2))),
		revokes(CodeCertificateRevoked, RevCertificate, fixed("abcdef")),
		{check: CheckFreshness, code: CodeRevocationsStale, after: func(_ *world, in *Input) {
			in.Revocation = feed{at: testNow.Add(-time.Minute - time.Second)}
		}},
		{check: CheckFreshness, code: CodeRevocationsFuture, after: func(_ *world, in *Input) { in.Revocation = feed{at: testNow.Add(time.Second)} }},
		{check: CheckFreshness, code: CodeRevocationsStale, name: "never", after: func(_ *world, in *Input) { in.Revocation = feed{} }},
	}
}

func (c cause) label() string {
	return strings.TrimSuffix(string(c.check)+"/"+c.code+"/"+c.name, "/")
}

func (c cause) input(tb testing.TB) Input {
	w := newWorld(tb, 3, elliptic.P256())
	if c.before != nil {
		c.before(w)
	}
	in := w.input()
	if c.after != nil {
		c.after(w, &in)
	}
	return in
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
		if prepared := Verify(in); prepared.Check(CheckPath).Code != plain.Check(CheckPath).Code || prepared.Valid != plain.Valid {
			t.Errorf("%s: %+v, prepared %+v", c.label(), plain.Check(CheckPath), prepared.Check(CheckPath))
		}
	}
	w := newWorld(t, 2, elliptic.P384())
	trust := must[*Trust](t)(NewTrust(testDomain, []*x509.Certificate{w.root}, []*x509.Certificate{w.ca}))
	if len(trust.anchors) != 1 {
		t.Error("nothing was remembered")
	}
	in := w.input()
	in.Trust = trust
	in.Now = w.root.NotAfter.Add(time.Second)
	if got := Verify(in).Check(CheckPath); got.Code != CodeCAExpired {
		t.Errorf("root and CA expired: %+v", got)
	}
	if len(trust.verifiedAt(in.Now).Subjects()) != 0 { //nolint:staticcheck // the pool is ours, not the system's
		t.Error("a CA below an expired root still counts")
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
