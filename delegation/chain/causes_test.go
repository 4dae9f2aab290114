package chain

import (
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

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
		revokes(CodeSubtreeRevoked, RevSubtree, fixed(agentUUID(1))),
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
