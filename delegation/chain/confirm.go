package chain

import (
	"crypto"
	"crypto/sha256"
	"slices"
)

// doubt is what keeps a confirmation from passing: a failure, or something that was not supplied.
type doubt struct {
	status Status
	code   string
	detail string
}

func refuted(f *failure) *doubt {
	if f == nil {
		return nil
	}
	return &doubt{status: Fail, code: f.code, detail: f.detail}
}

// confirmation verifies each agent's delegation under its delegator's key. A failure anywhere outweighs an absence elsewhere.
func (e *evaluation) confirmation() Check {
	doubts := []*doubt{refuted(e.misplaced())}
	grant, grantDoubt := e.grantDocument()
	doubts = append(doubts, grantDoubt)
	e.said = make([]Confirmed, len(e.d.Hops))
	for i := 1; i < len(e.d.Hops); i++ {
		d := e.confirm(i, grant)
		if e.said[i].Status = Pass; d != nil {
			e.said[i].Status = d.status
		}
		doubts = append(doubts, d)
	}
	doubts = slices.DeleteFunc(doubts, func(d *doubt) bool { return d == nil })
	if len(doubts) == 0 {
		c := verdict(CheckConfirmation, nil)
		if grant == nil {
			c.Detail = "no grant document: the first hop is vouched for by the CA"
		}
		return c
	}
	worst := doubts[0]
	for _, d := range doubts {
		if d.status == Fail {
			worst = d
			break
		}
	}
	return Check{Name: CheckConfirmation, Status: worst.status, Code: worst.code, Detail: worst.detail}
}

// misplaced refuses statements that no hop could have: they would otherwise be ignored in silence.
func (e *evaluation) misplaced() *failure {
	if len(e.in.Delegations) > len(e.d.Hops) || len(e.in.Keys) > len(e.d.Hops) || len(e.in.Links) > len(e.d.Hops) {
		return failed(CodeConfirmationExtra, "more delegations, keys or re-keys than hops")
	}
	if len(e.in.Delegations) > 0 && e.in.Delegations[0] != "" {
		return failed(CodeConfirmationExtra, "a delegation to the orchestrator, whose delegator is the user")
	}
	if len(e.in.Links) > 0 && len(e.in.Links[0]) > 0 {
		return failed(CodeConfirmationExtra, "a re-key of the orchestrator, which is attested anew instead")
	}
	return nil
}

// grantDocument returns the SHA-256 of the document, nil if none was supplied.
func (e *evaluation) grantDocument() (*[32]byte, *doubt) {
	if e.in.GrantDocument == nil {
		return nil, nil
	}
	sum := sha256.Sum256(e.in.GrantDocument)
	doc, err := e.in.Statements.document(sum, e.in.GrantDocument)
	if err != nil {
		return &sum, refuted(failed(CodeGrantDocument, "%v", err))
	}
	if what := e.grantDifference(&doc); what != "" {
		return &sum, refuted(failed(CodeGrantMismatch, "the grant document and the certificate differ in %s", what))
	}
	if doc.OrchestratorKey != e.d.Hops[0].SPKIHash {
		return &sum, &doubt{code: CodeOrchestratorKey, detail: "the user's grant names another key of the orchestrator; the CA vouches for this one"}
	}
	return &sum, nil
}

func (e *evaluation) grantDifference(doc *GrantDocument) string {
	g := &e.d.Grant
	switch {
	case doc.GrantID != FormatUUID(g.GrantID):
		return "grant_id"
	case doc.TaskID != FormatUUID(e.d.TaskID):
		return "task_id"
	case doc.Issuer != g.Issuer || doc.Subject != g.Subject:
		return "user"
	case !slices.Equal(doc.Scope, g.Scope):
		return "scope"
	case !doc.NotAfter.Equal(g.NotAfter):
		return "not_after"
	case doc.MaxDepth != g.MaxDepth:
		return "max_depth"
	case doc.Orchestrator != e.d.Hops[0].ID:
		return "orchestrator"
	case e.in.Origin != "" && doc.Origin != e.in.Origin:
		return "origin"
	}
	for _, id := range e.ids[1:] {
		if !slices.Contains(doc.AgentTypes, id.AgentType()) {
			return "agent_types"
		}
	}
	return ""
}

// confirm checks the delegation that made hop i.
func (e *evaluation) confirm(i int, grant *[32]byte) *doubt {
	if i >= len(e.in.Delegations) || e.in.Delegations[i] == "" {
		return &doubt{code: CodeNoConfirmation, detail: e.d.Hops[i].ID}
	}
	compact, hop := e.in.Delegations[i], &e.d.Hops[i]
	if hop.Confirmation == nil || DelegationHash(compact) != *hop.Confirmation {
		return refuted(failed(CodeConfirmationHash, "hop %d names another delegation or none", i))
	}
	claims, d := e.claims(i, signedBy{compact: *hop.Confirmation, key: e.d.Hops[i-1].SPKIHash})
	if d != nil {
		return d
	}
	e.said[i].Token = claims.EnrolHash
	if f := e.compare(&claims, i, grant); f != nil {
		return refuted(f)
	}
	return e.childKey(&claims, i)
}

// claims is what the delegation of hop i says, which has that SHA-256, under a key that has that one.
func (e *evaluation) claims(i int, at signedBy) (Claims, *doubt) {
	spki, d := e.spki(i - 1)
	if d != nil {
		return Claims{}, d
	}
	if c, known := e.in.Statements.delegation(at); known {
		return c, nil
	}
	key, d := e.parsed(i-1, spki)
	if d != nil {
		return Claims{}, d
	}
	c, err := VerifyDelegation(e.in.Delegations[i], key)
	if err != nil {
		return Claims{}, refuted(failed(CodeConfirmationInvalid, "hop %d: %v", i, err))
	}
	e.in.Statements.keepDelegation(at, c)
	return c, nil
}

// childKey ties the key that the hop names to the one that its delegator signed, over the re-keys in between.
func (e *evaluation) childKey(c *Claims, i int) *doubt {
	if i < len(e.in.Links) && len(e.in.Links[i]) > 0 {
		return e.relinked(c, i)
	}
	if c.EnrolHash != nil {
		// The child proved the token to the appliance; who holds only the certificate cannot.
		return nil
	}
	key, d := e.key(i)
	if d != nil {
		return d
	}
	sum, err := Thumbprint(key)
	if err != nil || sum != c.KeyHash {
		return refuted(failed(CodeConfirmationChildKey, "hop %d has another key than its delegator signed", i))
	}
	return nil
}

// relinked follows the re-keys of hop i: each signed by the key before it, from the one delegated to, to the hop's.
func (e *evaluation) relinked(c *Claims, i int) *doubt {
	key, d := e.key(i)
	if d != nil {
		return d
	}
	last, err := Thumbprint(key)
	if err != nil {
		return refuted(failed(CodeDelegatorKey, "hop %d: %v", i, err))
	}
	links := e.in.Links[i]
	if len(links) > MaxRekeys {
		return refuted(failed(CodeRekeyBroken, "hop %d: more than %d re-keys", i, MaxRekeys))
	}
	at := c.KeyHash
	for n := range links {
		r, f := e.link(&links[n], i)
		if f != nil {
			return refuted(f)
		}
		// A token names no key: the first link's own is what the appliance saw redeem it.
		if n == 0 && c.EnrolHash != nil {
			at = r.OldKey
		}
		if r.OldKey != at {
			return refuted(failed(CodeRekeyBroken, "hop %d: re-key %d is not by the key before it", i, n))
		}
		at = r.NewKey
	}
	if at != last {
		return refuted(failed(CodeRekeyBroken, "hop %d: its re-keys lead to another key", i))
	}
	return nil
}

// link verifies one re-key of hop i.
func (e *evaluation) link(l *Link, i int) (Rekey, *failure) {
	key, err := ParseKey(l.Key)
	if err != nil {
		return Rekey{}, failed(CodeRekeyInvalid, "hop %d: %v", i, err)
	}
	r, err := VerifyRekey(l.JWS, key)
	switch {
	case err != nil:
		return Rekey{}, failed(CodeRekeyInvalid, "hop %d: %v", i, err)
	case r.Agent != e.d.Hops[i].ID:
		return Rekey{}, failed(CodeRekeyInvalid, "hop %d: a re-key of another agent", i)
	case r.TaskID != FormatUUID(e.d.TaskID):
		return Rekey{}, failed(CodeRekeyInvalid, "hop %d: a re-key under another task", i)
	case e.in.Origin != "" && r.Audience != e.in.Origin:
		return Rekey{}, failed(CodeRekeyInvalid, "hop %d: a re-key for another log", i)
	}
	return r, nil
}

// key returns the key of hop i, if it was supplied and is the one that the certificate names.
func (e *evaluation) key(i int) (crypto.PublicKey, *doubt) {
	spki, d := e.spki(i)
	if d != nil {
		return nil, d
	}
	return e.parsed(i, spki)
}

// spki is likewise the key of hop i, not parsed yet.
func (e *evaluation) spki(i int) ([]byte, *doubt) {
	var spki []byte
	if i < len(e.in.Keys) {
		spki = e.in.Keys[i]
	}
	if spki == nil && i == len(e.d.Hops)-1 {
		spki = e.leaf.RawSubjectPublicKeyInfo
	}
	if spki == nil {
		return nil, &doubt{code: CodeNoDelegatorKey, detail: e.d.Hops[i].ID}
	}
	if sha256.Sum256(spki) != e.d.Hops[i].SPKIHash {
		return nil, refuted(failed(CodeDelegatorKey, "the key supplied for hop %d is not the one that it names", i))
	}
	return spki, nil
}

func (e *evaluation) parsed(i int, spki []byte) (crypto.PublicKey, *doubt) {
	key, err := ParseKey(spki)
	if err != nil {
		return nil, refuted(failed(CodeDelegatorKey, "hop %d: %v", i, err))
	}
	return key, nil
}

// compare holds the certificate's hop against what its delegator signed: the CA may have given less, never more.
func (e *evaluation) compare(c *Claims, i int, grant *[32]byte) *failure {
	hop, parent := &e.d.Hops[i], &e.d.Hops[i-1]
	switch {
	case c.Issuer != parent.ID || c.Subject != hop.ID:
		return failed(CodeConfirmationParties, "hop %d: iss or sub is another", i)
	case e.in.Origin != "" && c.Audience != e.in.Origin:
		return failed(CodeConfirmationAudience, "hop %d: aud is another log", i)
	case c.TaskID != FormatUUID(e.d.TaskID):
		return failed(CodeConfirmationTask, "hop %d: task_id is another", i)
	case !hop.Scope.Subset(c.Scope):
		return failed(CodeConfirmationScope, "hop %d has more scope than its delegator signed", i)
	case hop.NotAfter.After(c.Expiry):
		return failed(CodeConfirmationDeadline, "hop %d ends later than its delegator signed", i)
	case hop.MaxDepth > c.MaxDepth:
		return failed(CodeConfirmationDepth, "hop %d has more depth than its delegator signed", i)
	}
	want := grant
	if i > 1 {
		want = parent.Confirmation
	}
	// Without the grant document the first par_hash cannot be compared; a parent without a delegation cannot be named by one.
	if i == 1 && want == nil || want != nil && c.ParentHash == *want {
		return nil
	}
	return failed(CodeConfirmationParent, "hop %d: par_hash is not the parent's", i)
}
