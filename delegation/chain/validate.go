package chain

import (
	"time"
	"unicode/utf8"
)

// validate checks what both directions demand, so that whatever Parse accepts Marshal writes, and the reverse. Rules between
// hops (scope, deadline, depth) are not format: Verify reports each on its own.
func (d *Delegation) validate() error {
	if d.TaskID == ([16]byte{}) {
		return malformed(CodeIdentifier, "taskId", "is all zero")
	}
	if err := d.Grant.validate(); err != nil {
		return within("grant", err)
	}
	if len(d.Hops) < MinHops || len(d.Hops) > MaxHops {
		return malformed(CodeHopCount, "hops", "%d hops; %d to %d are allowed", len(d.Hops), MinHops, MaxHops)
	}
	return d.validateHops()
}

func (d *Delegation) validateHops() error {
	trustDomain := ""
	for i := range d.Hops {
		id, err := d.Hops[i].validate()
		if err != nil {
			return withinHop(i, err)
		}
		want := Agent
		if i == 0 {
			want, trustDomain = Orchestrator, id.TrustDomain()
		}
		if id.Kind() != want {
			return withinHop(i, malformed(CodeHopKind, "id", "names a %s; %s expected", id.Kind(), want))
		}
		if id.TrustDomain() != trustDomain {
			return withinHop(i, malformed(CodeHopTrustDomain, "id", "is of another trust domain than the orchestrator"))
		}
		if i == 0 && d.Hops[i].Confirmation != nil {
			return withinHop(i, malformed(CodeHopConfirmation, "confirmationHash", "the orchestrator's delegator is the user, who signs none"))
		}
	}
	return nil
}

func (g *Grant) validate() error {
	if err := checkText("issuer", g.Issuer, MaxIssuerBytes); err != nil {
		return err
	}
	if err := checkText("subject", g.Subject, MaxSubjectBytes); err != nil {
		return err
	}
	if g.GrantID == ([16]byte{}) {
		return malformed(CodeIdentifier, "grantId", "is all zero")
	}
	if g.Consent < WebAuthn || g.Consent > TokenExchange {
		return malformed(CodeConsent, "consentType", "%d is not known", g.Consent)
	}
	if g.EvidenceHash == ([32]byte{}) {
		return malformed(CodeHash, "evidenceHash", "is all zero")
	}
	return checkLimits(g.Scope, g.NotAfter, g.MaxDepth)
}

func (h *Hop) validate() (ID, error) {
	id, err := ParseID(h.ID)
	if err != nil {
		return ID{}, malformed(CodeHopID, "id", "%v", err)
	}
	if h.SPKIHash == ([32]byte{}) {
		return ID{}, malformed(CodeHash, "spkiHash", "is all zero")
	}
	return id, checkLimits(h.Scope, h.NotAfter, h.MaxDepth)
}

func checkLimits(s Scope, notAfter time.Time, depth int) error {
	if err := s.check(); err != nil {
		return malformed(CodeScope, "scope", "%v", err)
	}
	if notAfter.Nanosecond() != 0 || notAfter.Unix() <= 0 || notAfter.UTC().Year() > 9999 {
		return malformed(CodeTime, "notAfter", "is not a whole second after 1970 and before 10000")
	}
	// One octet: the check "depth" judges the value, so that a wrong one is named there.
	if depth < -128 || depth > 127 {
		return malformed(CodeDERInteger, "maxDepth", "is out of range")
	}
	return nil
}

// checkText accepts 1 to limit bytes of valid UTF-8 without control characters (C0, DEL, C1).
func checkText(field, s string, limit int) error {
	if s == "" || len(s) > limit {
		return malformed(CodeText, field, "%d bytes; 1 to %d are allowed", len(s), limit)
	}
	if !utf8.ValidString(s) {
		return malformed(CodeText, field, "is not UTF-8")
	}
	for _, r := range s {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return malformed(CodeText, field, "has a control character")
		}
	}
	return nil
}
