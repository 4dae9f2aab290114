package delegation

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// A link is taken for a short time, and forgives as much of the clocks.
const (
	linkLife = 10 * time.Minute
	linkSkew = time.Minute
)

// Rekey gives an agent a certificate for its next key, asked for over a connection with the present one, which signs a
// link to the next. The hop keeps its id, scope, depth and delegation; only key and end are new. Nothing more is issued
// to the old key; its certificate runs out by itself.
func (s *Service) Rekey(ctx context.Context, by Caller, q RekeyRequest) (Spawned, error) {
	out, err := s.rekey(ctx, by, q)
	if err != nil {
		return Spawned{}, s.denied(ctx, "agent.rekey", by, record.Envelope{}, err)
	}
	return out, nil
}

func (s *Service) rekey(ctx context.Context, by Caller, q RekeyRequest) (Spawned, error) {
	if err := s.takeCaller(ctx, by); err != nil {
		return Spawned{}, err
	}
	if by.ID.Kind() != chain.Agent || by.deleg == nil || by.ID.AgentID() != q.AgentID {
		return Spawned{}, refuse(Forbidden, "agent_required", "id", "a key is replaced by its agent, over a connection with the present one")
	}
	if err := s.cfg.Ready(); err != nil {
		return Spawned{}, notReady(err)
	}
	csr, err := parseCSR(q.CSR)
	if err != nil {
		return Spawned{}, err
	}
	done, err := s.turns.take(ctx, q.AgentID)
	if err != nil {
		return Spawned{}, err
	}
	defer done()
	raw, ok, err := s.cfg.Log.Get(keyAgent + q.AgentID)
	if err != nil {
		return Spawned{}, internal("read agent", err)
	}
	if !ok {
		return Spawned{}, refuse(Forbidden, "agent_unknown", "id", "the log does not know this agent")
	}
	st := new(agentState)
	if err := json.Unmarshal(raw, st); err != nil {
		return Spawned{}, internal("read agent", err)
	}
	old, next := spkiHash(by.Certs[0].RawSubjectPublicKeyInfo), spkiHash(csr.SPKI)
	if r := st.Renewed; r != nil && bytes.Equal(r.Key, next[:]) && bytes.Equal(r.Previous, old[:]) {
		return s.reissue(ctx, q.AgentID, st, r.certified())
	}
	if st.superseded(old) {
		return Spawned{}, errSuperseded()
	}
	return s.rekeyNew(ctx, by.Certs[0], q, csr, st, raw)
}

func errSuperseded() *Error {
	return refuse(Forbidden, "certificate_superseded", "", "the agent has another key by now; nothing more is issued to this one")
}

// superseded says whether the agent has another key than this one by now.
func (st *agentState) superseded(key [32]byte) bool {
	return st.Renewed != nil && !bytes.Equal(st.Renewed.Key, key[:])
}

// certified is the newest certificate, with what its entry says of the re-key.
func (r *renewedState) certified() certified {
	sum := sha256.Sum256([]byte(r.Link))
	return certified{
		tbs: r.TBS, link: r.Link,
		rekey: &record.RekeyBody{PreviousSPKIHash: hexOf([32]byte(r.Previous)), LinkHash: hexOf(sum)},
	}
}

// present is the chain in the agent's newest certificate.
func (st *agentState) present() (chain.Delegation, error) {
	tbs := st.TBS
	if st.Renewed != nil {
		tbs = st.Renewed.TBS
	}
	return delegationIn(tbs)
}

// delegationIn is the chain in a certificate that was issued here.
func delegationIn(tbs []byte) (chain.Delegation, error) {
	ext, err := chain.ExtractTBS(tbs)
	if err != nil {
		return chain.Delegation{}, err
	}
	return chain.Parse(ext)
}

func (s *Service) rekeyNew(ctx context.Context, cert *x509.Certificate, q RekeyRequest, csr *chain.CSR, st *agentState, raw []byte) (Spawned, error) {
	count := 1
	if st.Renewed != nil {
		count = st.Renewed.Count + 1
	}
	if count > s.cfg.Limits.Rekeys {
		return Spawned{}, refuse(Forbidden, "too_many_rekeys", "id", "the agent has changed its key as often as one may")
	}
	d, err := st.present()
	if err != nil {
		return Spawned{}, internal("read agent", err)
	}
	if err := s.checkLink(q.Link, cert.PublicKey, csr.Public, d); err != nil {
		return Spawned{}, err
	}
	l, child, err := s.renewed(st, d, spkiHash(csr.SPKI))
	if err != nil {
		return Spawned{}, err
	}
	last := child.Hops[len(child.Hops)-1]
	req := SpawnRequest{
		TaskID: st.TaskID, SpawnID: q.AgentID, Scope: last.Scope, MaxDepth: last.MaxDepth, TTL: last.NotAfter.Sub(s.cfg.Now()),
		Confirmation: st.Delegations[len(st.Delegations)-1],
	}
	r := renewedState{
		NotAfter: last.NotAfter, Key: last.SPKIHash[:], Previous: slices.Clone(d.Hops[len(d.Hops)-1].SPKIHash[:]), Count: count, Link: q.Link,
	}
	o, err := s.agentOrder(ctx, req, l, child, csr.SPKI, r.certified())
	if err != nil {
		return Spawned{}, err
	}
	o.mutations = func(p Prepared) ([]record.Mutation, error) {
		r.TBS = p.TBS()
		return s.rekeyMutations(cert, q, l, child, st, raw, r)
	}
	issued, err := s.issue(ctx, o)
	return Spawned{Issued: issued, AgentID: q.AgentID}, err
}

// renewed is the agent's chain with its next key, until the earliest of what bounds it: the certificate's longest life,
// what the delegator allowed, the hop above (which is never later than task and grant), and the issuing CA.
func (s *Service) renewed(st *agentState, d chain.Delegation, key [32]byte) (lineage, chain.Delegation, error) {
	l, err := s.fromTask(st.TaskID)
	if err != nil {
		return l, chain.Delegation{}, err
	}
	hop := d.Hops[len(d.Hops)-1]
	l.parent = d
	l.parent.Hops = slices.Clip(d.Hops[:len(d.Hops)-1])
	above := l.parent.Hops[len(l.parent.Hops)-1]
	if l.by.id, err = chain.ParseID(above.ID); err != nil {
		return l, chain.Delegation{}, internal("read agent", err)
	}
	l.by.spki = st.DelegatorKey
	if err := s.allowDeep(&l); err != nil {
		return l, chain.Delegation{}, err
	}
	id, err := chain.ParseID(hop.ID)
	if err != nil {
		return l, chain.Delegation{}, internal("read agent", err)
	}
	if !slices.Contains(l.types, id.AgentType()) {
		return l, chain.Delegation{}, refuse(Forbidden, "agent_type_not_allowed", "id", "the registration no longer allows this agent type")
	}
	now := s.cfg.Now().UTC()
	hop.SPKIHash = key
	hop.NotAfter = bounded(now.Add(l.longest(l.byType(id.AgentType()).MaxTTL)), st.Limit, above.NotAfter, l.task.NotAfter, s.cfg.Certifier.Limit(chain.Agent)).Truncate(time.Second)
	if !hop.NotAfter.After(now) {
		return l, chain.Delegation{}, refuse(Forbidden, chain.CodeDeadlinePassed, "id", "the delegator allowed no more time")
	}
	child, err := extend(l.parent, hop)
	return l, child, err
}

// checkLink holds what the old key signed against the request.
func (s *Service) checkLink(link string, old, next crypto.PublicKey, d chain.Delegation) error {
	if link == "" {
		return refuse(Invalid, "rekey_link_required", "link", "the old key signs for the new one")
	}
	r, err := chain.VerifyRekey(link, old)
	if err != nil {
		return refuse(Forbidden, chain.CodeRekeyInvalid, "link", err.Error())
	}
	jkt, err := chain.Thumbprint(next)
	if err != nil {
		return refuse(Invalid, "bad_csr_key", "csr", err.Error())
	}
	field := ""
	switch {
	case r.Agent != d.Hops[len(d.Hops)-1].ID:
		field = "iss"
	case r.Audience != s.cfg.Origin:
		field = "aud"
	case r.TaskID != chain.FormatUUID(d.TaskID):
		field = "task_id"
	case r.NewKey != jkt:
		field = "cnf.jkt"
	}
	if field != "" {
		return refuse(Forbidden, "rekey_link_mismatch", "link", "the signed "+field+" is not that of this request")
	}
	now := s.cfg.Now()
	if now.Before(r.IssuedAt.Add(-linkSkew)) || now.After(r.Expiry.Add(linkSkew)) || r.Expiry.Sub(r.IssuedAt) > linkLife {
		return refuse(Forbidden, "rekey_link_expired", "link", fmt.Sprintf("iat and exp are around now, at most %s apart", linkLife))
	}
	return nil
}

// rekeyMutations write the agent's next certificate, if nobody did so meanwhile, and keep the link for who verifies.
func (s *Service) rekeyMutations(cert *x509.Certificate, q RekeyRequest, l lineage, child chain.Delegation, st *agentState, raw []byte, r renewedState) ([]record.Mutation, error) {
	next := *st
	next.Renewed = &r
	value, err := encode(next)
	if err != nil {
		return nil, err
	}
	link, err := encode(linkState{JWS: q.Link, Key: cert.RawSubjectPublicKeyInfo, To: r.Key})
	if err != nil {
		return nil, err
	}
	stands, err := s.stands(child, l.task)
	if err != nil {
		return nil, err
	}
	return append([]record.Mutation{
		replace(keyAgent+q.AgentID, raw, value, l.keep(), errSuperseded()),
		uniqueKey([32]byte(r.Key), q.AgentID, l.keep()),
		{Key: linkKey(q.AgentID, r.Count), Value: link, Expires: l.keep()},
		must(record.Absent, revKey(chain.RevCertificate, chain.Serial(cert)), refuse(Forbidden, chain.CodeCertificateRevoked, "", "the certificate is revoked")),
	}, stands...), nil
}

func linkKey(agent string, n int) string { return fmt.Sprintf("%s%s/%08d", keyLink, agent, n) }

// links are the re-keys of each agent of a chain, up to the key that the chain names.
func (s *Service) links(ctx context.Context, d chain.Delegation) ([][]chain.Link, error) {
	out := make([][]chain.Link, len(d.Hops))
	for i := 1; i < len(d.Hops); i++ {
		id, err := chain.ParseID(d.Hops[i].ID)
		if err != nil {
			return nil, internal("read agent", err)
		}
		if out[i], err = s.linksTo(ctx, id.AgentID(), d.Hops[i].SPKIHash); err != nil {
			return nil, internal("read re-keys", err)
		}
	}
	return out, nil
}

func (s *Service) linksTo(ctx context.Context, agent string, key [32]byte) ([]chain.Link, error) {
	var out []chain.Link
	reached := 0
	err := s.cfg.Log.Scan(ctx, keyLink+agent+"/", "", chain.MaxRekeys, func(k string, value []byte) error {
		var st linkState
		if err := json.Unmarshal(value, &st); err != nil {
			return fmt.Errorf("delegation: state %q: %w", k, err)
		}
		out = append(out, chain.Link{JWS: st.JWS, Key: st.Key})
		if bytes.Equal(st.To, key[:]) {
			reached = len(out)
		}
		return nil
	})
	return out[:reached], err
}
