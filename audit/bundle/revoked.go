package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unique"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// revocable is one thing that a revocation can name.
type revocable struct {
	kind chain.RevKind
	id   unique.Handle[string] // certificates by the thousand name the same tasks and ancestors
}

func (r revocable) String() string { return r.kind.String() + " " + r.id.Value() }

// ending is the first entry that revoked a thing. The appliance forgets it once nothing valid can name the thing; who judges
// the log does not: what was revoked is never in force again.
type ending struct {
	index uint64
	time  time.Time
}

// standing is what an entry rests on.
type standing []revocable

func (s *standing) on(kind chain.RevKind, id string) {
	if id != "" {
		*s = append(*s, revocable{kind, unique.Make(id)})
	}
}

// standingOf is what the envelope and the chain of an entry name. All but the last agent must also stand for what is below them.
func standingOf(env *record.Envelope, hops []string) (s standing, err error) {
	s = make(standing, 0, 4+2*len(hops))
	s.on(chain.RevTask, env.Task)
	s.on(chain.RevGrant, env.Grant)
	s.on(chain.RevUser, env.User)
	if len(hops) == 0 {
		s.on(chain.RevOrchestrator, env.Orchestrator)
	}
	for i, hop := range hops {
		id, err := chain.ParseID(hop)
		if err != nil {
			return s, fmt.Errorf("hop %d: %w", i, err)
		}
		if i == 0 {
			s.on(chain.RevOrchestrator, id.Name())
			continue
		}
		s.on(chain.RevAgent, id.AgentID())
		if i < len(hops)-1 {
			s.on(chain.RevSubtree, id.AgentID())
		}
	}
	return s, nil
}

func idsOf(hops []record.HopBody) []string {
	out := make([]string, len(hops))
	for i := range hops {
		out[i] = hops[i].ID
	}
	return out
}

// revokeOf is the thing that a revoke entry names.
func revokeOf(env record.Envelope) (revocable, error) {
	body, err := record.DecodeBody[record.RevokeBody](env)
	if err != nil {
		return revocable{}, err
	}
	kind, err := chain.ParseRevKind(body.Kind)
	if err == nil && body.ID == "" {
		err = errors.New("it revokes nothing")
	}
	return revocable{kind, unique.Make(body.ID)}, err
}

// noteRevoke keeps the first revocation of a thing.
func (v *verifier) noteRevoke(f *fact) {
	v.changes++
	if _, known := v.revoked[f.revoke]; !known {
		v.revoked[f.revoke] = ending{f.index, f.time}
	}
}

// stands holds an entry to the revocations and alarms before it. more is what else is wrong with what it rests on.
func (v *verifier) stands(f *fact, s standing, more ...error) bool {
	where := at(f.index, entriesPath(f.index/chunk))
	errs := []error{f.unnamed, errors.Join(more...)}
	alarmed := false
	for _, r := range s {
		errs = append(errs, v.inForce(r))
		if r.kind == chain.RevGrant {
			errs = append(errs, v.giver(r))
		}
		if n, raised := v.alarmed[r]; raised && r.kind == chain.RevAgent {
			v.tally.fail(CheckAlarm, where, "after the alarm in entry %d about %s", n, r)
			alarmed = true
		}
	}
	v.behind(f)
	return v.tally.check(CheckRevocation, where, errors.Join(errs...)) && !alarmed
}

// standsOn holds an entry to what its certificate rests on. What was found to stand does until an entry changes something.
func (v *verifier) standsOn(f *fact, c *certified) {
	if f.unnamed == nil && c.stood > 0 && c.stood == v.changes {
		v.behind(f)
		v.stood++
		return
	}
	if v.stands(f, c.rests) {
		c.stood = v.changes
	}
}

// behind notes the first entry behind a gap that was held to the revocations.
func (v *verifier) behind(f *fact) {
	if v.gap != nil && v.blind == nil {
		v.blind = new(f.index)
	}
}

func (v *verifier) inForce(r revocable) error {
	if e, ended := v.revoked[r]; ended {
		return fmt.Errorf("%s was revoked by entry %d", r, e.index)
	}
	return nil
}

// giver is for entries that do not name their user: the grant's does.
func (v *verifier) giver(grant revocable) error {
	g, known := v.grants[grant.id.Value()]
	if !known || g.user == "" {
		return nil
	}
	return v.inForce(revocable{chain.RevUser, unique.Make(g.user)})
}

// standsIssue also holds a certificate to those that it was asked for with. What is signed again stands on its chain alone.
func (v *verifier) standsIssue(f *fact) {
	var asked error
	if _, again := v.shown[f.issue.tbs]; !again {
		asked = v.asking(f.issue.by)
	}
	v.stands(f, f.rests, asked, v.renewed(f))
}

// asking checks that whoever had a key could still show a certificate for it. A part of a log may lack a later one.
func (v *verifier) asking(key hash) error {
	if v.partial || key == (hash{}) {
		return nil
	}
	var last error
	for _, serial := range v.keys[key].serials {
		err := v.inForce(revocable{chain.RevCertificate, serial})
		if err == nil {
			return nil
		}
		last = err
	}
	if last != nil {
		last = fmt.Errorf("the key that asked for it has no certificate any more: %w", last)
	}
	return last
}

// renewed follows the certificates that one was renewed over. The appliance holds only the last of them to the revocations at the moment of the
// entry itself, and those before it when the request comes: a revocation in between is not its fault.
func (v *verifier) renewed(f *fact) error {
	over, ok := f.issue.renews, f.issue.renews != unique.Handle[string]{}
	for n := 0; ok && n < maxRenewals; n++ {
		e, ended := v.revoked[revocable{chain.RevCertificate, over}]
		if ended && (n == 0 || f.time.After(e.time.Add(issueSkew))) {
			return fmt.Errorf("it renews certificate %s, which was revoked by entry %d", over.Value(), e.index)
		}
		over, ok = v.renews[over]
	}
	return nil
}

// maxRenewals bounds how far a certificate is followed back.
const maxRenewals = 256

// decisionFact is what an allowed decision rests on: a certificate, or where its entry is not here what the decision says itself.
type decisionFact struct {
	tbs  hash // zero: it names none
	line []byte
}

// decisionBody is what is judged of a decision.
type decisionBody struct {
	Allow   bool   `json:"allow"`
	TBSHash string `json:"tbs_hash"`
	Hops    []struct {
		ID string `json:"id"`
	} `json:"hops"`
}

// decisionOf reads a body that was read strictly before. allowed is false for a refusal, which rests on nothing.
func decisionOf(body []byte) (d decisionFact, allowed bool, err error) {
	if len(body) == 0 {
		return d, false, nil // it allows nothing
	}
	allowed, tbs, ok := plainDecision(body)
	if !ok {
		var b decisionBody
		if err := json.Unmarshal(body, &b); err != nil {
			return d, false, fmt.Errorf("body: %w", err)
		}
		allowed, tbs = b.Allow, []byte(b.TBSHash)
	}
	if allowed && len(tbs) > 0 {
		d.tbs, err = parseHash(string(tbs))
	}
	return d, allowed, err
}

// plainDecision reads the same without reflection, of a body as the appliance spells it. Whatever is different is not ok, and not judged.
func plainDecision(body []byte) (allowed bool, tbs []byte, ok bool) {
	plain := true
	scanned := record.Members(body, func(key, value []byte) {
		switch string(key) {
		case "allow":
			allowed = string(value) == "true"
			plain = plain && (allowed || string(value) == "false")
		case "tbs_hash":
			var text bool
			tbs, text = plainText(value)
			plain = plain && text
		case "hops":
			plain = plain && plainHops(value)
		}
	})
	return allowed, tbs, plain && scanned
}

// plainHops reports whether a value is an array of objects whose ids are strings.
func plainHops(value []byte) bool {
	plain := true
	return record.Elements(value, func(hop []byte) {
		if !record.Members(hop, func(key, value []byte) {
			if string(key) == "id" && value[0] != '"' {
				plain = false
			}
		}) {
			plain = false
		}
	}) && plain
}

// plainText is a string without escapes.
func plainText(value []byte) ([]byte, bool) {
	if value[0] != '"' || bytes.IndexByte(value, '\\') >= 0 {
		return nil, false
	}
	return value[1 : len(value)-1], true
}

// rests is what the decision says itself. The entry was read before.
func (d *decisionFact) rests() (standing, error) {
	env, err := record.Check(d.line)
	var body decisionBody
	if err == nil {
		err = json.Unmarshal(env.Body, &body)
	}
	if err != nil {
		return nil, err
	}
	hops := make([]string, len(body.Hops))
	for i := range body.Hops {
		hops[i] = body.Hops[i].ID
	}
	return standingOf(&env, hops)
}

// noteDecision holds a permission to what its certificate rests on, which a liar would not repeat in it.
func (v *verifier) noteDecision(f *fact) {
	if c, known := v.shown[f.decision.tbs]; known {
		v.standsOn(f, c)
		return
	}
	if f.decision.tbs != (hash{}) && !v.partial {
		v.tally.fail(CheckDelegation, at(f.index, entriesPath(f.index/chunk)), "no earlier entry records the certificate that was allowed something")
	}
	s, err := f.decision.rests()
	v.stands(f, s, err)
}

// unseen says what a part of a log cannot show.
func (v *verifier) unseen() {
	if v.blind != nil {
		v.tally.unsure(CheckRevocation, at(*v.blind, entriesPath(*v.blind/chunk)),
			"from here on held to the revocations that are in the bundle; entries from %d on are not", *v.gap)
	}
}
