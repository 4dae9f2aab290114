package delegation

import (
	"context"
	"encoding/hex"
	"log/slog"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// order is one certificate on its way: what it says, and what its entry says beside it.
type order struct {
	template  Template
	env       record.Envelope
	body      record.IssueBody
	payload   any
	mutations func(p Prepared) ([]record.Mutation, error)
	until     time.Time // when the last certificate that could be renewed over this one has ended; zero: it cannot be renewed
	first     string    // serial of the certificate that its renewals began with; "": it is not renewed over any
}

// issue is the one way to a signature: prepare, append and wait until durable, sign exactly those bytes, release.
func (s *Service) issue(ctx context.Context, o order) (Issued, error) {
	p, err := s.cfg.Certifier.Prepare(o.template)
	if err != nil {
		return Issued{}, internal("prepare certificate", err)
	}
	return s.issuePrepared(ctx, o, p)
}

func (s *Service) issuePrepared(ctx context.Context, o order, p Prepared) (Issued, error) {
	if err := s.signable(); err != nil {
		return Issued{}, err
	}
	d, err := s.issueDraft(o, p)
	if err != nil {
		return Issued{}, err
	}
	pos, err := s.append(ctx, d)
	if err != nil {
		return Issued{}, err
	}
	return s.sign(ctx, o, p, pos)
}

// signable comes before the entry: what cannot be signed now is not logged.
func (s *Service) signable() error {
	if err := s.cfg.Signing(); err != nil {
		return &Error{Kind: Unavailable, Code: "signing_unavailable", Detail: "the signing key is away or busy, so nothing was done", Err: err}
	}
	return nil
}

func (s *Service) issueDraft(o order, p Prepared) (draft, error) {
	o.env.Type = record.TypeIssue
	o.body.SPIFFEID = o.template.ID.String()
	o.body.Kind = o.template.ID.Kind().String()
	f := p.Facts()
	o.body.Serial, o.body.TBSHash, o.body.IssuerSPKIHash = f.Serial, hexOf(p.Hash()), hexOf(f.IssuerSPKIHash)
	if o.body.SPKIHash == "" {
		o.body.SPKIHash = hexOf(spkiHash(o.template.SPKI))
	}
	o.body.NotBefore, o.body.NotAfter = f.NotBefore, f.NotAfter
	m, err := o.mutations(p)
	if err != nil {
		return draft{}, err
	}
	serial, err := serialMutation(f.Serial, o.template.ID.Kind(), later(f.NotAfter, o.until), o.first)
	if err != nil {
		return draft{}, err
	}
	m = append(m, record.Mutation{Key: keyOpen + hexOf(p.Hash()), Value: []byte(f.Serial)}, serial)
	return draft{
		env: o.env, body: o.body, payload: o.payload, mutations: m,
	}, nil
}

// sign makes the signature that the log already knows of. A failure is an entry too.
func (s *Service) sign(ctx context.Context, o order, p Prepared, pos Position) (Issued, error) {
	der, err := s.cfg.Certifier.Issue(ctx, p)
	if err != nil {
		s.signFailed(ctx, o, p, pos.Index)
		return Issued{}, &Error{Kind: Unavailable, Code: codeSigning, Detail: "the signing key is not available", AuditIndex: &pos.Index, Err: err}
	}
	s.released.put(p.Hash(), pos)
	s.keep(ctx, kept{tbs: p.Hash(), der: der[0], at: pos})
	return Issued{ID: o.template.ID, Chain: der, NotAfter: p.Facts().NotAfter, Position: pos}, nil
}

func (s *Service) signFailed(ctx context.Context, o order, p Prepared, index uint64) {
	env := o.env
	env.Type, env.Code = record.TypeIssueFailed, codeSigning
	// The caller may be gone; the record of what was not signed is owed all the same.
	_, err := s.appendFirmly(ctx, draft{
		env: env, body: record.FailBody{Index: index, Serial: p.Facts().Serial, TBSHash: hexOf(p.Hash())},
		mutations: []record.Mutation{{Key: keyOpen + hexOf(p.Hash()), Delete: true}},
	})
	if err != nil {
		s.cfg.Logger.Error("a failed signature was not recorded", slog.String("serial", p.Facts().Serial), slog.Any("error", err))
	}
}

// issueAgain answers a retry: it signs the stored bytes of an earlier issuance, which are the same certificate by its
// TBS hash. If a certificate of these bytes was released before, its entry stands; if none was, or nobody knows, what is
// released now gets an entry of its own first.
func (s *Service) issueAgain(ctx context.Context, o order, tbs []byte) (Issued, error) {
	p, err := s.cfg.Certifier.Resume(o.template.ID.Kind(), tbs)
	if err != nil {
		return Issued{}, internal("resume certificate", err)
	}
	revoked := refuse(Forbidden, chain.CodeCertificateRevoked, "", "the certificate is revoked")
	if s.revoked.has(chain.RevCertificate, p.Facts().Serial) {
		return Issued{}, revoked
	}
	at, ok, err := s.releasedAt(p.Hash())
	if err != nil {
		return Issued{}, err
	}
	if !ok {
		stands := o.mutations
		o.mutations = func(p Prepared) ([]record.Mutation, error) {
			m, err := stands(p)
			return append(m, must(record.Absent, revKey(chain.RevCertificate, p.Facts().Serial), revoked)), err
		}
		return s.issuePrepared(ctx, o, p)
	}
	return s.sign(ctx, o, p, at)
}

// releasedAt finds the entry of a certificate that was released: in memory, since it is stored a little later only.
func (s *Service) releasedAt(tbs [32]byte) (Position, bool, error) {
	if at, ok := s.released.get(tbs); ok {
		return at, true, nil
	}
	_, at, err := s.kept(tbs)
	if err != nil {
		return Position{}, false, internal("read certificate", err)
	}
	if at == nil {
		return Position{}, false, nil
	}
	return *at, true, nil
}

// hopBodies shows hops as an envelope does: no names of people.
func hopBodies(hops []chain.Hop) []record.HopBody {
	out := make([]record.HopBody, len(hops))
	for i, h := range hops {
		out[i] = record.HopBody{
			ID: h.ID, SPKIHash: hexOf(h.SPKIHash), Scope: h.Scope.Strings(), NotAfter: h.NotAfter, MaxDepth: h.MaxDepth,
		}
		if h.Confirmation != nil {
			out[i].Confirmation = hex.EncodeToString(h.Confirmation[:])
		}
	}
	return out
}

// bounded is the earliest of the times.
func bounded(first time.Time, more ...time.Time) time.Time {
	for _, t := range more {
		if t.Before(first) {
			first = t
		}
	}
	return first
}

// later is the later of both.
func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// IssueListener gives the appliance's own listener its certificate. The template's NotAfter is cut to what the CA allows.
func (s *Service) IssueListener(ctx context.Context, t Template) (Issued, error) {
	t.NotAfter = bounded(t.NotAfter, s.cfg.Certifier.Limit(t.ID.Kind())).UTC().Truncate(time.Second)
	return s.issue(ctx, order{
		template:  t,
		env:       record.Envelope{Service: t.ID.Name()},
		body:      record.IssueBody{},
		mutations: func(Prepared) ([]record.Mutation, error) { return nil, nil },
	})
}
