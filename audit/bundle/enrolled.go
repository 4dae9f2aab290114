package bundle

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/signet-pki/signet/audit/record"
)

// enrolled names a token: whoever makes tokens may use one for several agents.
type enrolled struct {
	token hash
	id    string // SPIFFE ID
}

// enrolFact is an enrolment token as its entry tells it.
type enrolFact struct {
	index   uint64
	of      enrolled
	lineage hash // of the chain, whose last hop has no key yet
	expires time.Time
	by      hash // the delegator's key
}

func (f *fact) readEnrollment(env *record.Envelope) error {
	body, err := record.DecodeBody[record.EnrollmentBody](*env)
	if err != nil {
		return err
	}
	n := len(body.Hops)
	if n == 0 || body.Hops[n-1].ID != body.SPIFFEID || body.Hops[n-1].SPKIHash != "" {
		return errors.New("its last hop is not that of the agent, without a key")
	}
	e := &enrolFact{expires: body.Expires}
	f.enrol, e.of.id = e, body.SPIFFEID
	if e.of.token, err = parseHash(body.TokenHash); err != nil {
		return fmt.Errorf("token_hash: %w", err)
	}
	if n > 1 {
		if e.by, err = parseHash(body.Hops[n-2].SPKIHash); err != nil {
			return fmt.Errorf("hop %d: spki_hash: %w", n-2, err)
		}
	}
	f.rests, f.unnamed = standingOf(env, idsOf(body.Hops))
	e.lineage, err = lineageOf(body.Hops)
	return err
}

// noteEnrollment keeps the first entry of a token.
func (v *verifier) noteEnrollment(f *fact) {
	v.stands(f, f.rests, v.asking(f.enrol.by))
	e := *f.enrol
	e.index = f.index
	if _, known := v.tokens[e.of]; !known {
		v.tokens[e.of] = e
	}
}

// redeems checks that the token which a key redeemed was recorded before, for the same chain, and was redeemed in time.
func (v *verifier) redeems(index uint64, env *record.Envelope, body *record.IssueBody) error {
	token, err := parseHash(body.EnrollmentHash)
	if err != nil {
		return fmt.Errorf("enrollment_hash: %w", err)
	}
	e, known := v.tokens[enrolled{token, body.SPIFFEID}]
	switch {
	case !known && v.partial:
		return nil
	case !known || e.index >= index:
		return errors.New("no earlier entry records its token")
	}
	hops := slices.Clone(body.Hops)
	hops[len(hops)-1].SPKIHash = ""
	lineage, err := lineageOf(hops)
	if err == nil && lineage != e.lineage {
		err = fmt.Errorf("its chain is not the one that its token, in entry %d, is for", e.index)
	}
	// A retry by the same key gets a later entry, and may come after the token's end.
	if key, parsed := parseHash(body.SPKIHash); parsed == nil && v.keys[key].index == index && env.Time.After(e.expires.Add(issueSkew)) {
		err = errors.Join(err, errors.New("it was issued after its token had expired"))
	}
	return err
}
