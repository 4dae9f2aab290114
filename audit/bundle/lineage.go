package bundle

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// issueFact is what later entries and certificates rest on of an issue entry.
type issueFact struct {
	spki, signed hash // the key, and its delegator's JWS if there is one
	bearer       bearer
	serial       string
	certified    *certified // nil for whoever is no agent
}

// bearer is who has a key.
type bearer struct {
	index    uint64
	id       string // SPIFFE ID
	lineage  hash   // of an agent's chain, its own hop included
	previous hash   // of a re-key: the key before
	link     hash   // of a re-key: SHA-256 of the link
}

func issueOf(body *record.IssueBody) (f issueFact, err error) {
	if f.spki, err = parseHash(body.SPKIHash); err != nil {
		return f, err
	}
	f.bearer.id, f.serial = body.SPIFFEID, body.Serial
	if f.certified, err = certifiedOf(body); err != nil {
		return f, err
	}
	if n := len(body.Hops); n > 0 {
		if f.bearer.lineage, err = lineageOf(body.Hops); err != nil {
			return f, err
		}
		if last := body.Hops[n-1].Confirmation; last != "" {
			if f.signed, err = parseHash(last); err != nil {
				return f, err
			}
		}
	}
	if body.Rekey == nil {
		return f, nil
	}
	if f.bearer.previous, err = parseHash(body.Rekey.PreviousSPKIHash); err != nil {
		return f, err
	}
	f.bearer.link, err = parseHash(body.Rekey.LinkHash)
	return f, err
}

// lineageOf is a hash of hops, for comparing only.
func lineageOf(hops []record.HopBody) (hash, error) {
	text, err := json.Marshal(hops)
	return sha256.Sum256(text), err
}

// noteIssue keeps the first bearer of a key. An agent's key changes by a re-key or not at all.
func (v *verifier) noteIssue(f *fact) {
	b := f.issue.bearer
	b.index = f.index
	if c := f.issue.certified; c != nil {
		if _, known := v.serials[f.issue.serial]; !known {
			c.index = f.index
			v.serials[f.issue.serial] = *c
		}
	}
	if f.issue.signed != (hash{}) {
		if _, known := v.signed[f.issue.signed]; !known {
			v.signed[f.issue.signed] = f.index
		}
	}
	if had, known := v.keys[f.issue.spki]; known {
		if had.id != b.id || had.lineage != b.lineage {
			v.tally.fail(CheckDelegation, at(f.index, entriesPath(f.index/chunk)), "another identity or chain for the key of entry %d", had.index)
		}
		return
	}
	v.keys[f.issue.spki] = b
	if b.lineage == (hash{}) {
		return
	}
	first, known := v.agents[b.id]
	if !known {
		v.agents[b.id] = f.issue.spki
		return
	}
	if b.previous == (hash{}) {
		v.tally.fail(CheckDelegation, at(f.index, entriesPath(f.index/chunk)), "another key for the agent of entry %d, without a re-key", v.keys[first].index)
	}
}

// descends checks that the log recorded what an agent's issue entry rests on: its grant, its delegator with the same
// chain and key, and the key before a re-key. Of a partial bundle what is not here is not missed.
func (v *verifier) descends(index uint64, env *record.Envelope, body *record.IssueBody) error {
	n := len(body.Hops)
	if n < chain.MinHops {
		return errors.New("it records no chain")
	}
	var errs []error
	if v.grants[env.Grant] == nil && v.opts.Range == nil {
		errs = append(errs, errors.New("no entry records its grant"))
	}
	errs = append(errs, v.parent(index, body.Hops[:n-1]))
	if body.Rekey != nil {
		errs = append(errs, v.before(index, body))
	}
	if body.EnrollmentHash != "" {
		errs = append(errs, v.redeems(index, env, body))
	}
	return errors.Join(errs...)
}

// parent checks the delegator, whose own entry was checked the same way.
func (v *verifier) parent(index uint64, hops []record.HopBody) error {
	at := len(hops) - 1
	key, err := parseHash(hops[at].SPKIHash)
	if err != nil {
		return fmt.Errorf("hop %d: spki_hash: %w", at, err)
	}
	holder, known := v.keys[key]
	switch {
	case !known && v.opts.Range != nil:
		return nil
	case !known || holder.index >= index:
		return fmt.Errorf("hop %d: no earlier entry gives %s this key", at, hops[at].ID)
	case holder.id != hops[at].ID:
		return fmt.Errorf("hop %d: its key is that of another, in entry %d", at, holder.index)
	case at == 0:
		return nil
	}
	lineage, err := lineageOf(hops)
	if err == nil && lineage != holder.lineage {
		err = fmt.Errorf("hop %d: its chain is not the one in entry %d", at, holder.index)
	}
	return err
}

// before checks that a re-key follows a key of the same agent.
func (v *verifier) before(index uint64, body *record.IssueBody) error {
	previous, err := parseHash(body.Rekey.PreviousSPKIHash)
	if err != nil {
		return fmt.Errorf("re-key: %w", err)
	}
	holder, known := v.keys[previous]
	switch {
	case !known && v.opts.Range != nil:
		return nil
	case !known || holder.index >= index:
		return errors.New("re-key: no earlier entry records the key before")
	case holder.id != body.SPIFFEID:
		return fmt.Errorf("re-key: the key before is that of another, in entry %d", holder.index)
	}
	return nil
}

// links are the re-keys that led to a key, oldest first; complete is false if one is not here.
func (v *verifier) links(key hash) (links []chain.Link, complete bool) {
	for range chain.MaxRekeys {
		holder, known := v.keys[key]
		if !known || holder.previous == (hash{}) {
			return links, true
		}
		link := v.jwsFile(holder.index / chunk)[holder.index].Link
		old := v.key(holder.previous)
		if link == "" || old == nil {
			return nil, false
		}
		links = append([]chain.Link{{JWS: link, Key: old}}, links...)
		if earlier := v.keys[holder.previous]; earlier.index >= holder.index {
			return links, true // a circle, which descends reports
		}
		key = holder.previous
	}
	return links, true
}

// linkSkew is how far the clocks of agent and appliance may lie apart.
const linkSkew = time.Minute

// rekeyed checks the link of a re-key by itself: it is needed also where no delegator signed for the key before.
func (v *verifier) rekeyed(index uint64, cert *x509.Certificate, env *record.Envelope, body *record.IssueBody) {
	if body.Rekey == nil {
		return
	}
	where := at(index, delegatorsPath(index/chunk))
	link := v.jwsFile(index / chunk)[index].Link
	if link == "" {
		v.tally.unsure(CheckConfirmation, where, "the link of this re-key is absent")
		return
	}
	if sum := sha256.Sum256([]byte(link)); hexOf(sum) != body.Rekey.LinkHash {
		v.tally.fail(CheckConfirmation, where, "its link is not the one in the entry")
		return
	}
	previous, err := parseHash(body.Rekey.PreviousSPKIHash)
	if err != nil {
		return // reported with the entry
	}
	old := v.key(previous)
	if old == nil {
		v.tally.unsure(CheckConfirmation, where, "the certificate of the key before is absent")
		return
	}
	v.tally.check(CheckConfirmation, where, v.leads(link, old, cert, env, body))
}

// leads verifies a link and that it leads to the certificate's key.
func (v *verifier) leads(link string, old []byte, cert *x509.Certificate, env *record.Envelope, body *record.IssueBody) error {
	key, err := chain.ParseKey(old)
	if err != nil {
		return err
	}
	r, err := chain.VerifyRekey(link, key)
	if err != nil {
		return err
	}
	next, err := chain.Thumbprint(cert.PublicKey)
	switch {
	case err != nil:
		return err
	case r.Agent != body.SPIFFEID || r.TaskID != env.Task || r.Audience != v.anchors.origin:
		return errors.New("its link is for another agent, task or log")
	case r.NewKey != next:
		return errors.New("its link leads to another key")
	case env.Time.Before(r.IssuedAt.Add(-linkSkew)) || env.Time.After(r.Expiry.Add(linkSkew)):
		return errors.New("its link was not valid at that time")
	}
	return nil
}

// redeemed compares the token that a delegator signed for with the one that the log says was redeemed.
func (v *verifier) redeemed(index uint64, report *chain.Report, body *record.IssueBody) {
	if len(report.Confirmed) == 0 || body.Rekey != nil {
		return
	}
	last := report.Confirmed[len(report.Confirmed)-1]
	if last.Status != chain.Pass {
		return
	}
	signed := ""
	if last.Token != nil {
		signed = hexOf(*last.Token)
	}
	if signed != body.EnrollmentHash {
		v.tally.fail(CheckConfirmation, at(index, entriesPath(index/chunk)), "the token that was redeemed is not the one that its delegator signed for")
	}
}

// count tells hops that their delegator confirmed from those that the CA vouches for.
func (v *verifier) count(d *chain.Delegation, report *chain.Report, grant *grantFact) {
	if len(report.Confirmed) == 0 {
		return
	}
	n := len(d.Hops) - 1
	switch {
	case report.Confirmed[n].Status == chain.Fail:
	case report.Confirmed[n].Status != chain.Pass:
		v.tally.hop(false)
	default:
		// The first hop's signature counts as far as the user's grant names the key that made it.
		v.tally.hop(n > 1 || grant != nil && grant.names(d.Hops[0].SPKIHash))
	}
}
