package bundle

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unique"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// certified is what an access token may not exceed: the agent's certificate, as its entry tells it.
type certified struct {
	index    uint64
	id       string // SPIFFE ID
	scope    chain.Scope
	notAfter time.Time
	rests    standing
	stood    uint64 // after how many changes it was last found to stand; 0: it was not
}

// certifiedOf is nil for whoever has no chain.
func certifiedOf(body *record.IssueBody) (*certified, error) {
	n := len(body.Hops)
	if n == 0 {
		return nil, nil //nolint:nilnil // services and orchestrators have no tokens
	}
	scope, err := chain.ParseScope(body.Hops[n-1].Scope)
	if err != nil {
		return nil, fmt.Errorf("scope: %w", err)
	}
	return &certified{id: body.SPIFFEID, scope: scope, notAfter: body.NotAfter}, nil
}

// tokenFact is an access token as its entry tells it.
type tokenFact struct {
	jti      string
	agent    string // UUID
	serial   unique.Handle[string]
	scope    chain.Scope
	notAfter time.Time
}

func (f *fact) readToken(env *record.Envelope) error {
	body, err := record.DecodeBody[record.TokenBody](*env)
	if err != nil {
		return err
	}
	f.token = &tokenFact{jti: body.JTI, agent: env.Agent, serial: unique.Make(body.Serial), notAfter: body.NotAfter}
	if f.rests, err = standingOf(env, nil); err != nil {
		return err
	}
	f.rests.on(chain.RevAgent, env.Agent)
	f.rests.on(chain.RevCertificate, body.Serial)
	if f.token.scope, err = chain.ParseScope(body.Scope); err != nil {
		return fmt.Errorf("scope: %w", err)
	}
	return nil
}

// tokenName is what a token_failed entry says of the token that it is about.
type tokenName struct {
	index      uint64 // of the token entry
	jti, agent string
}

func unsignedOf(env record.Envelope) (tokenName, error) {
	body, err := record.DecodeBody[record.TokenFailBody](env)
	return tokenName{index: body.Index, jti: body.JTI, agent: env.Agent}, err
}

// noteUnsigned checks that a token that was not signed was recorded before, and is said once not to have been.
func (v *verifier) noteUnsigned(f *fact) {
	var err error
	if _, known := v.accessTokens[f.unsigned]; !known && !v.partial {
		err = errors.New("no earlier entry records the access token that was not signed")
	}
	delete(v.accessTokens, f.unsigned)
	v.tally.check(CheckDelegation, at(f.index, entriesPath(f.index/chunk)), err)
}

// noteToken checks that a token gives no more than the certificate that it is bound to, and that what that rests on is in force.
func (v *verifier) noteToken(f *fact) {
	v.accessTokens[tokenName{index: f.index, jti: f.token.jti, agent: f.token.agent}] = struct{}{}
	v.tally.check(CheckDelegation, at(f.index, entriesPath(f.index/chunk)), v.within(f))
	if c, known := v.serials[f.token.serial]; known {
		v.standsOn(f, c)
	} else {
		v.stands(f, f.rests)
	}
}

func (v *verifier) within(f *fact) error {
	t := f.token
	c, known := v.serials[t.serial]
	if !known {
		if v.partial {
			return nil
		}
		return errors.New("no earlier entry records the certificate that the access token is bound to")
	}
	var errs []error
	if id, err := chain.ParseID(c.id); err != nil || id.AgentID() != t.agent {
		errs = append(errs, fmt.Errorf("the access token is bound to the certificate of another, in entry %d", c.index))
	}
	if !t.scope.Subset(c.scope) {
		errs = append(errs, fmt.Errorf("the access token has more scope than the certificate in entry %d", c.index))
	}
	if t.notAfter.After(c.notAfter) || t.notAfter.After(f.time.Add(chain.MaxAccessTokenLife)) {
		errs = append(errs, errors.New("the access token outlives its certificate, or what any may live"))
	}
	return errors.Join(errs...)
}

// claims compares what was signed with what the entry says of it.
func claims(env *record.Envelope, payload []byte) error {
	body, err := record.DecodeBody[record.TokenBody](*env)
	if err != nil {
		return nil //nolint:nilerr // reported with the entry
	}
	var p record.TokenPayload
	if err := json.Unmarshal(payload, &p); err != nil {
		return fmt.Errorf("claims: %w", err)
	}
	if sum := sha256.Sum256(p.Claims); hexOf(sum) != body.ClaimsHash {
		return errors.New("the claims are not those that the entry has the hash of")
	}
	t, err := chain.ParseAccessTokenClaims(p.Claims)
	if err != nil {
		return err
	}
	scope, err := chain.ParseScope(body.Scope)
	if err != nil {
		return nil //nolint:nilerr // reported with the entry
	}
	same := t.JTI == body.JTI && t.Audience.String() == body.Audience && t.Expiry.Equal(body.NotAfter) && t.Serial == body.Serial &&
		hexOf(t.CertificateHash) == body.CertificateHash && t.Scope.String() == scope.String() &&
		t.Agent().AgentID() == env.Agent && chain.FormatUUID(t.TaskID) == env.Task && chain.FormatUUID(t.GrantID) == env.Grant
	if !same {
		return errors.New("the claims say something else than the entry")
	}
	return nil
}
