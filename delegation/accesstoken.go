package delegation

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/policy"
)

// TokenRequest asks for an access token, by the agent that will present it.
type TokenRequest struct {
	Audience string        // SPIFFE ID of a registered service
	Scope    chain.Scope   // within the agent's
	TTL      time.Duration // 0: as long as allowed
}

// Token is an access token, released.
type Token struct {
	Compact  string
	NotAfter time.Time
	Scope    chain.Scope
	Position Position
}

// IssueToken gives an agent an access token for one service, bound to the certificate of this connection: for hops on which
// that certificate cannot be presented for TLS. Like a certificate it is checked, put to policy, logged, and only then signed.
func (s *Service) IssueToken(ctx context.Context, by Caller, q TokenRequest) (Token, error) {
	out, err := s.issueToken(ctx, by, q)
	if err != nil {
		return Token{}, s.denied(ctx, "token.issue", by, s.aboutToken(by), err)
	}
	return out, nil
}

func (s *Service) aboutToken(by Caller) record.Envelope {
	if by.deleg == nil {
		return record.Envelope{}
	}
	return record.Envelope{
		Task: chain.FormatUUID(by.deleg.TaskID), Grant: chain.FormatUUID(by.deleg.Grant.GrantID), Agent: by.ID.AgentID(),
		Orchestrator: nameOf(by.deleg.Hops[0].ID), User: s.cfg.Pseudonym(by.deleg.Grant.Issuer, by.deleg.Grant.Subject),
	}
}

func (s *Service) issueToken(ctx context.Context, by Caller, q TokenRequest) (Token, error) {
	if err := s.takeCaller(ctx, by); err != nil {
		return Token{}, err
	}
	if by.ID.Kind() != chain.Agent || by.deleg == nil || len(by.Certs) == 0 {
		return Token{}, refuse(Forbidden, "agent_required", "", "access tokens are for agents, over their own connection")
	}
	if err := s.cfg.Ready(); err != nil {
		return Token{}, notReady(err)
	}
	_, same, err := s.presentKey(by)
	if err != nil {
		return Token{}, err
	}
	t, err := s.accessToken(by, q)
	if err != nil {
		return Token{}, err
	}
	a, err := s.askForToken(ctx, by, t)
	if err != nil {
		return Token{}, err
	}
	claims, err := t.Claims()
	if err != nil {
		return Token{}, internal("encode token", err)
	}
	if err := s.signable(); err != nil {
		return Token{}, err
	}
	d := s.accessTokenDraft(by, t, claims, a)
	d.mutations = append(d.mutations, same)
	pos, err := s.append(ctx, d)
	if err != nil {
		return Token{}, err
	}
	// The very bytes that the entry has the hash of.
	compact, err := s.cfg.Statements.Sign(ctx, chain.AccessTokenType, json.RawMessage(claims))
	if err != nil {
		s.tokenFailed(ctx, d.env, t, pos.Index)
		return Token{}, &Error{Kind: Unavailable, Code: codeSigning, Detail: "the signing key is not available", AuditIndex: &pos.Index, Err: err}
	}
	return Token{Compact: compact, NotAfter: t.Expiry, Scope: t.Scope, Position: pos}, nil
}

// tokenFailed records that the token was not signed, though the caller may be gone. A crash before it leaves nothing: the
// token's entry says that it may have been released, and what may be is over within five minutes.
func (s *Service) tokenFailed(ctx context.Context, env record.Envelope, t *chain.AccessToken, index uint64) {
	env.Type, env.Code, env.Policy = record.TypeTokenFailed, codeSigning, ""
	_, err := s.appendFirmly(ctx, draft{
		env: env, body: record.TokenFailBody{Index: index, JTI: t.JTI},
	})
	if err != nil {
		s.cfg.Logger.Error("a token that was not signed was not recorded", slog.String("jti", t.JTI), slog.Any("error", err))
	}
}

// presentKey refuses an agent that comes with a key which it replaced. It gives the check that this still holds at commit.
func (s *Service) presentKey(by Caller) (*agentState, record.Mutation, error) {
	var same record.Mutation
	key := keyAgent + by.ID.AgentID()
	raw, ok, err := s.cfg.Log.Get(key)
	if err != nil {
		return nil, same, internal("read agent", err)
	}
	if !ok {
		return nil, same, refuse(Forbidden, "agent_unknown", "", "the log does not know this agent")
	}
	st := new(agentState)
	if err := json.Unmarshal(raw, st); err != nil {
		return nil, same, internal("read agent", err)
	}
	if st.superseded(spkiHash(by.Certs[0].RawSubjectPublicKeyInfo)) {
		return nil, same, errSuperseded()
	}
	same = record.Mutation{Key: key, CheckOnly: true, Pre: record.Precondition{Op: record.Equal, Value: raw, Err: errSuperseded()}}
	return st, same, nil
}

// accessToken is what the agent may have of what it asks for.
func (s *Service) accessToken(by Caller, q TokenRequest) (*chain.AccessToken, error) {
	d, leaf := by.deleg, by.Certs[0]
	audience, err := s.audience(q.Audience)
	if err != nil {
		return nil, err
	}
	last := d.Hops[len(d.Hops)-1]
	if len(q.Scope) == 0 || !q.Scope.Subset(last.Scope) {
		return nil, refuse(Forbidden, chain.CodeScopeExceeds, "scope", "the token would allow more than the agent may")
	}
	now := s.cfg.Now().UTC().Truncate(time.Second)
	expiry := bounded(now.Add(chain.MaxAccessTokenLife), leaf.NotAfter)
	if q.TTL > 0 {
		if asked := now.Add(q.TTL); asked.After(expiry) {
			return nil, refuse(Forbidden, chain.CodeDeadlineExceeds, "ttl", "a token lives for five minutes at most, and never longer than its agent")
		} else {
			expiry = asked.Truncate(time.Second)
		}
	}
	if !expiry.After(now) {
		return nil, refuse(Forbidden, chain.CodeDeadlinePassed, "ttl", "nothing is left of the agent's life")
	}
	id, err := s.newID()
	if err != nil {
		return nil, err
	}
	t := &chain.AccessToken{
		Issuer: s.cfg.Origin, Audience: audience, JTI: id, IssuedAt: now, Expiry: expiry.UTC(), Scope: q.Scope,
		User: chain.User{Issuer: d.Grant.Issuer, Subject: d.Grant.Subject}, TaskID: d.TaskID, GrantID: d.Grant.GrantID,
		Serial: chain.Serial(leaf), CertificateHash: sha256.Sum256(leaf.Raw),
	}
	for _, h := range d.Hops {
		hop, err := chain.ParseID(h.ID)
		if err != nil {
			return nil, internal("read chain", err)
		}
		t.Actors = append(t.Actors, hop)
	}
	return t, nil
}

// audience is a registered service of this trust domain: a token for nobody would only be lost somewhere.
func (s *Service) audience(text string) (chain.ID, error) {
	id, err := chain.ParseID(text)
	if err != nil || id.Kind() != chain.Service || id.TrustDomain() != s.cfg.Trust.TrustDomain {
		return chain.ID{}, refuse(Invalid, "bad_audience", "audience", "the SPIFFE ID of a service of this trust domain")
	}
	if _, ok, err := load[identityState](s.cfg.Log, identityKey(chain.Service, id.Name())); err != nil {
		return chain.ID{}, internal("read registration", err)
	} else if !ok {
		return chain.ID{}, refuse(NotFound, "audience_unknown", "audience", "no such service is registered")
	}
	return id, nil
}

func (s *Service) askForToken(ctx context.Context, by Caller, t *chain.AccessToken) (asked, error) {
	if code := s.revoked.lineage(*by.deleg); code != "" {
		return asked{}, refuse(Forbidden, code, "", "a part of the delegation chain is revoked")
	}
	g, err := s.grant(chain.FormatUUID(t.GrantID))
	if err != nil {
		return asked{}, err
	}
	task, err := s.task(chain.FormatUUID(t.TaskID))
	if err != nil {
		return asked{}, err
	}
	in := s.input(policy.PointToken, *by.deleg, g, task, s.attestation(by.deleg.Hops[0].ID))
	in.Request = &policy.Request{Scope: t.Scope.Strings(), TTLSeconds: int64(t.Expiry.Sub(t.IssuedAt) / time.Second)}
	in.Resource = &policy.Resource{Type: "service", ID: t.Audience.String()}
	a, err := s.ask(ctx, in)
	if err != nil {
		return asked{}, err
	}
	return a, a.permitted()
}

// accessTokenDraft asks once more, at the moment of commit, whether anything of the chain was revoked.
func (s *Service) accessTokenDraft(by Caller, t *chain.AccessToken, claims []byte, a asked) draft {
	env := s.aboutToken(by)
	env.Type, env.Service, env.Policy = record.TypeToken, t.Audience.Name(), a.answer.Digest
	return draft{
		env: env,
		body: record.TokenBody{
			JTI: t.JTI, Audience: t.Audience.String(), Scope: t.Scope.Strings(), NotAfter: t.Expiry, Serial: t.Serial,
			CertificateHash: hex.EncodeToString(t.CertificateHash[:]), ClaimsHash: hexOf(sha256.Sum256(claims)),
			InputHash: a.hash(),
		},
		payload: record.TokenPayload{Claims: claims, Input: a.input},
		mutations: append(unrevoked(*by.deleg), must(record.Absent, revKey(chain.RevCertificate, t.Serial),
			refuse(Forbidden, chain.CodeCertificateRevoked, "", "the certificate is revoked"))),
	}
}
