package chain

import (
	"errors"
	"time"
)

// Each method here is one row of the table of checks, in its order.

func (e *evaluation) format() Check {
	if e.leaf == nil {
		return skipped(CheckFormat, CodeNoCertificate)
	}
	d, err := Extract(e.leaf)
	if err != nil {
		f := failed(CodeDER, "%v", err)
		if known, ok := errors.AsType[*FormatError](err); ok {
			f.code = known.Code
		}
		return verdict(CheckFormat, f)
	}
	ids := make([]ID, len(d.Hops))
	for i := range d.Hops {
		// Parse has accepted every one of them.
		if ids[i], err = ParseID(d.Hops[i].ID); err != nil {
			return verdict(CheckFormat, failed(CodeHopID, "%v", err))
		}
	}
	e.d, e.ids = &d, ids
	return verdict(CheckFormat, nil)
}

func (e *evaluation) last() *Hop { return &e.d.Hops[len(e.d.Hops)-1] }

func (e *evaluation) binding() Check {
	if e.id == (ID{}) || e.id.String() != e.last().ID {
		return verdict(CheckBinding, failed(CodeBindingID, "the last hop is %s, and the certificate's URI is another", e.last().ID))
	}
	if SPKIHash(e.leaf) != e.last().SPKIHash {
		return verdict(CheckBinding, failed(CodeBindingKey, "the last hop names another key than the certificate's"))
	}
	return verdict(CheckBinding, nil)
}

func (e *evaluation) principal() Check {
	user, orchestrator := e.in.ExpectUser, e.in.ExpectOrchestrator
	if user == nil && orchestrator == "" {
		return skipped(CheckPrincipal, CodeNotRequested)
	}
	if user != nil && (user.Issuer != e.d.Grant.Issuer || user.Subject != e.d.Grant.Subject) {
		return verdict(CheckPrincipal, failed(CodePrincipal, "the agent acts for another user"))
	}
	if orchestrator != "" && orchestrator != e.d.Hops[0].ID {
		return verdict(CheckPrincipal, failed(CodeOrchestratorMismatch, "the agent was spawned by %s", e.d.Hops[0].ID))
	}
	return verdict(CheckPrincipal, nil)
}

func (e *evaluation) attenuation() Check {
	parent, code := e.d.Grant.Scope, CodeGrantScope
	for i := range e.d.Hops {
		if t, over := e.d.Hops[i].Scope.exceeding(parent); over {
			return verdict(CheckAttenuation, failed(code, "hop %d has %q, which its parent's scope does not cover", i, t.text))
		}
		parent, code = e.d.Hops[i].Scope, CodeHopScope
	}
	return verdict(CheckAttenuation, nil)
}

func (e *evaluation) deadline() Check { return verdict(CheckDeadline, e.checkDeadline()) }

func (e *evaluation) checkDeadline() *failure {
	parent, code := e.d.Grant.NotAfter, CodeGrantDeadline
	for i := range e.d.Hops {
		if e.d.Hops[i].NotAfter.After(parent) {
			return failed(code, "hop %d ends later than its parent", i)
		}
		parent, code = e.d.Hops[i].NotAfter, CodeHopDeadline
	}
	if !e.leaf.NotAfter.Equal(e.last().NotAfter) {
		return failed(CodeCertificateDeadline, "the certificate's NotAfter is not the last hop's")
	}
	if e.now.IsZero() {
		return failed(CodeClockMissing, "no time was given")
	}
	if e.now.Add(e.skew).Before(e.leaf.NotBefore) {
		return failed(CodeNotYetValid, "the certificate is valid from %s", e.leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	if !e.now.Before(e.leaf.NotAfter) {
		return failed(CodeDeadlinePassed, "authorised until %s", e.leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

func (e *evaluation) depth() Check { return verdict(CheckDepth, e.checkDepth()) }

// checkDepth: the grant's depth counts levels of agents, so the orchestrator holds it undiminished and each agent one less.
func (e *evaluation) checkDepth() *failure {
	most, code := e.d.Grant.MaxDepth, CodeGrantDepth
	if most > MaxDepth {
		return failed(CodeDepthTooLarge, "the grant allows %d levels; at most %d are allowed", most, MaxDepth)
	}
	for i := range e.d.Hops {
		hop := &e.d.Hops[i]
		if hop.MaxDepth < 0 {
			return failed(CodeDepthNegative, "hop %d has depth %d", i, hop.MaxDepth)
		}
		if hop.MaxDepth > most {
			return failed(code, "hop %d has depth %d; its parent leaves %d", i, hop.MaxDepth, most)
		}
		most, code = hop.MaxDepth-1, CodeHopDepth
		for j := range i {
			if e.d.Hops[j].ID == hop.ID {
				return failed(CodeDuplicateID, "hops %d and %d have the same id", j, i)
			}
			if e.d.Hops[j].SPKIHash == hop.SPKIHash {
				return failed(CodeDuplicateKey, "hops %d and %d have the same key", j, i)
			}
		}
	}
	return nil
}

func (e *evaluation) logged() Check {
	if e.leaf == nil {
		return skipped(CheckLogged, CodeNoCertificate)
	}
	if e.in.Logged == nil {
		return skipped(CheckLogged, CodeNoReceipt)
	}
	if err := e.in.Logged(TBSHash(e.leaf)); err != nil {
		return verdict(CheckLogged, failed(CodeNotLogged, "%v", err))
	}
	return verdict(CheckLogged, nil)
}

func (e *evaluation) scope() Check {
	if len(e.in.RequiredScope) == 0 {
		return skipped(CheckScope, CodeNotRequested)
	}
	for _, t := range e.in.RequiredScope {
		if !e.last().Scope.Covers(t) {
			return verdict(CheckScope, failed(CodeScopeNotCovered, "%q is not within the agent's scope", t.text))
		}
	}
	return verdict(CheckScope, nil)
}

func (e *evaluation) revocation() Check {
	feed := e.in.Revocation
	if feed == nil {
		return skipped(CheckRevocation, CodeNoRevocations)
	}
	var f *failure
	look := func(kind RevKind, id, code, what string) {
		switch {
		case !feed.Revoked(kind, id):
		case f == nil:
			f = failed(code, "revoked: %s", what)
		default:
			f.detail += ", " + what
		}
	}
	// Broadest first.
	look(RevUser, UserID(e.d.Grant.Issuer, e.d.Grant.Subject), CodeUserRevoked, "user")
	look(RevGrant, FormatUUID(e.d.Grant.GrantID), CodeGrantRevoked, "grant")
	look(RevTask, FormatUUID(e.d.TaskID), CodeTaskRevoked, "task")
	look(RevOrchestrator, e.ids[0].Name(), CodeOrchestratorRevoked, "orchestrator")
	n := len(e.ids) - 1
	for _, id := range e.ids[1:n] {
		look(RevAgent, id.AgentID(), CodeParentRevoked, "parent agent "+id.AgentID())
		look(RevSubtree, id.AgentID(), CodeSubtreeRevoked, "what is below agent "+id.AgentID())
	}
	look(RevAgent, e.ids[n].AgentID(), CodeAgentRevoked, "agent")
	look(RevCertificate, e.serial(), CodeCertificateRevoked, "certificate")
	return verdict(CheckRevocation, f)
}

func (e *evaluation) freshness() Check {
	if e.in.Revocation == nil {
		return skipped(CheckFreshness, CodeNoRevocations)
	}
	if e.in.MaxStaleness <= 0 {
		return skipped(CheckFreshness, CodeNoStalenessLimit)
	}
	if e.now.IsZero() {
		return verdict(CheckFreshness, failed(CodeClockMissing, "no time was given"))
	}
	at := e.in.Revocation.FreshAt()
	if at.After(e.now.Add(e.skew)) {
		return verdict(CheckFreshness, failed(CodeRevocationsFuture, "the feed is of %s", at.UTC().Format(time.RFC3339)))
	}
	if at.Before(e.now.Add(-e.in.MaxStaleness)) {
		return verdict(CheckFreshness, failed(CodeRevocationsStale, "the feed is of %s", at.UTC().Format(time.RFC3339)))
	}
	return verdict(CheckFreshness, nil)
}
