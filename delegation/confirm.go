package delegation

import (
	"crypto"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
)

// confirm checks the delegator's JWS, where there is one or must be one, and ties it to the hop. The key is the
// child's; nil for one that will redeem a token. It gives the end that no re-key of the child may pass: what the
// delegator signed; where it signed nothing, the lifetime that was asked for.
func (s *Service) confirm(by Caller, q SpawnRequest, l lineage, key crypto.PublicKey, hop *chain.Hop) (time.Time, error) {
	end := l.parent.Hops[len(l.parent.Hops)-1].NotAfter
	if q.Confirmation == "" {
		if l.confirm {
			return end, refuse(Invalid, "confirmation_required", "confirmation", "the delegator's signed delegation is required here")
		}
		if q.TTL > 0 {
			end = hop.NotAfter
		}
		return end, nil
	}
	if key == nil && q.EnrollmentHash == nil {
		return end, refuse(Invalid, "enrollment_hash_required", "enrollment_hash", "a signed delegation names the token's hash, so its caller makes the token")
	}
	claims, err := chain.VerifyDelegation(q.Confirmation, by.Certs[0].PublicKey)
	if err != nil {
		return end, refuse(Forbidden, "confirmation_invalid", "confirmation", err.Error())
	}
	field := confirms(claims, by, q, l, hop, s.cfg.Origin)
	if field == "" {
		field, err = confirmsChild(claims, q, key)
	}
	if err != nil {
		return end, err
	}
	if field != "" {
		return end, refuse(Forbidden, "confirmation_mismatch", "confirmation", "the signed "+field+" is not that of this request")
	}
	sum := chain.DelegationHash(q.Confirmation)
	hop.Confirmation = &sum
	return bounded(end, claims.Expiry), nil
}

// confirmsChild compares the child's key, or the hash of its token.
func confirmsChild(c chain.Claims, q SpawnRequest, key crypto.PublicKey) (field string, err error) {
	if key == nil {
		if c.EnrolHash == nil || *c.EnrolHash != *q.EnrollmentHash {
			return "cnf.enrol", nil
		}
		return "", nil
	}
	jkt, err := chain.Thumbprint(key)
	if err != nil {
		return "", refuse(Invalid, "bad_csr_key", "csr", err.Error())
	}
	if c.EnrolHash != nil || c.KeyHash != jkt {
		return "cnf.jkt", nil
	}
	return "", nil
}

// confirms compares each claim with the request; it gives the first claim that differs.
func confirms(c chain.Claims, by Caller, q SpawnRequest, l lineage, hop *chain.Hop, origin string) string {
	parentHash := [32]byte(l.grant.Hash)
	if last := l.parent.Hops[len(l.parent.Hops)-1]; last.Confirmation != nil {
		parentHash = *last.Confirmation
	}
	switch {
	case c.Issuer != by.ID.String():
		return "iss"
	case c.Subject != hop.ID:
		return "sub"
	case c.Audience != origin:
		return "aud"
	case c.JTI != q.SpawnID:
		return "jti"
	case c.TaskID != q.TaskID:
		return "task_id"
	case !hop.Scope.Subset(c.Scope):
		return "scope"
	case hop.NotAfter.After(c.Expiry):
		return "exp"
	case hop.MaxDepth > c.MaxDepth:
		return "del_max_depth"
	case c.ParentHash != parentHash:
		return "par_hash"
	}
	return ""
}
