package bundle

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
	"unique"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// issueFact is what later entries and certificates rest on of an issue entry.
type issueFact struct {
	spki, signed hash // the key, and its delegator's JWS if there is one
	tbs          hash
	serial       unique.Handle[string]
	bearer       bearer
	certified    *certified            // nil for whoever is no agent
	renews       unique.Handle[string] // serial of the certificate before; zero: none
	by           hash                  // the key that must have a certificate to ask with; zero: none
}

// bearer is who has a key.
type bearer struct {
	index    uint64
	id       string // SPIFFE ID
	lineage  hash   // of an agent's chain, its own hop included
	previous hash   // of a re-key: the key before
	link     hash   // of a re-key: SHA-256 of the link
	enrolled bool   // for a token
	serials  []unique.Handle[string]
}

// readIssue also notes what the certificate stands on.
func (f *fact) readIssue(env *record.Envelope) error {
	body, err := record.DecodeBody[record.IssueBody](*env)
	if err != nil {
		return err
	}
	i := &issueFact{bearer: bearer{id: body.SPIFFEID, enrolled: body.EnrollmentHash != ""}, serial: unique.Make(body.Serial)}
	f.issue = i
	if i.spki, err = parseHash(body.SPKIHash); err != nil {
		return err
	}
	if i.tbs, err = parseHash(body.TBSHash); err != nil {
		return err
	}
	if body.Renews != "" {
		i.renews = unique.Make(body.Renews)
	}
	if i.certified, err = certifiedOf(&body); err != nil {
		return err
	}
	switch body.Kind {
	case kindAgent:
		f.rests, f.unnamed = standingOf(env, idsOf(body.Hops))
	case chain.Orchestrator.String():
		f.rests, f.unnamed = standingOf(env, []string{body.SPIFFEID})
	}
	f.rests.on(chain.RevCertificate, body.Serial)
	if i.certified != nil {
		i.certified.rests = f.rests
	}
	if err := i.readHops(body.Hops); err != nil || body.Rekey == nil {
		return err
	}
	return i.readRekey(body.Rekey)
}

func (i *issueFact) readHops(hops []record.HopBody) (err error) {
	n := len(hops)
	if n == 0 {
		return nil
	}
	if i.bearer.lineage, err = lineageOf(hops); err != nil {
		return err
	}
	if last := hops[n-1].Confirmation; last != "" {
		if i.signed, err = parseHash(last); err != nil {
			return err
		}
	}
	if n > 1 && !i.bearer.enrolled {
		i.by, err = parseHash(hops[n-2].SPKIHash)
	}
	return err
}

func (i *issueFact) readRekey(body *record.RekeyBody) (err error) {
	if i.bearer.previous, err = parseHash(body.PreviousSPKIHash); err != nil {
		return err
	}
	i.by = i.bearer.previous
	i.bearer.link, err = parseHash(body.LinkHash)
	return err
}

// lineageOf is a hash of hops, for comparing only.
func lineageOf(hops []record.HopBody) (hash, error) {
	text, err := json.Marshal(hops)
	return sha256.Sum256(text), err
}

// noteIssue keeps the first bearer of a key. An agent's key changes by a re-key or not at all.
func (v *verifier) noteIssue(f *fact) {
	i := f.issue
	v.standsIssue(f)
	v.noteCertificate(f)
	if i.signed != (hash{}) {
		if _, known := v.signed[i.signed]; !known {
			v.signed[i.signed] = f.index
		}
	}
	b := i.bearer
	b.index = f.index
	if had, known := v.keys[i.spki]; known {
		if had.id != b.id || had.lineage != b.lineage {
			v.tally.fail(CheckDelegation, at(f.index, entriesPath(f.index/chunk)), "another identity or chain for the key of entry %d", had.index)
		}
		if !slices.Contains(had.serials, i.serial) {
			had.serials = append(had.serials, i.serial)
			v.keys[i.spki] = had
		}
		return
	}
	b.serials = []unique.Handle[string]{i.serial}
	v.keys[i.spki] = b
	if b.lineage == (hash{}) {
		return
	}
	first, known := v.agents[b.id]
	if !known {
		v.agents[b.id] = i.spki
		return
	}
	if b.previous == (hash{}) {
		v.tally.fail(CheckDelegation, at(f.index, entriesPath(f.index/chunk)), "another key for the agent of entry %d, without a re-key", v.keys[first].index)
	}
}

// noteCertificate keeps the first entry of a certificate.
func (v *verifier) noteCertificate(f *fact) {
	i := f.issue
	if i.renews != (unique.Handle[string]{}) {
		v.renews[i.serial] = i.renews
	}
	if i.certified == nil {
		return
	}
	i.certified.index = f.index
	if _, known := v.serials[i.serial]; !known {
		v.serials[i.serial] = i.certified
	}
	if _, known := v.shown[i.tbs]; !known {
		v.shown[i.tbs] = i.certified
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
	if v.grants[env.Grant] == nil && !v.partial {
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
	case !known && v.partial:
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
	case !known && v.partial:
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
