package delegation

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// Former is the log that a restored one takes the place of.
type Former interface {
	Get(key string) (value []byte, ok bool, err error)
	// Each calls fn for all live keys with the prefix, in order, with when they expire (zero: never).
	Each(ctx context.Context, prefix string, fn func(key string, value []byte, expires time.Time) error) error
}

// Succession is what Carry needs besides the former log.
type Succession struct {
	Epochs    uint64              // by how much the revocation feed's epoch is raised, at least 1
	Issuers   []*x509.Certificate // of services' and operators' certificates
	Pseudonym func(issuer, subject string) string
	Now       time.Time
	Rand      io.Reader
}

// Carry gives the first entries of the log that succeeds one after a restore. What was in force before stays so, as entries of their
// own: the active policy, registrations, services' and operators' certificates, users' authenticators, and every revocation. What was
// begun ends: grants are revoked, with all below them, and tasks, agents, tokens, idempotency keys and candidates of policy are not
// carried. Orchestrators prove themselves again: their registration is a new one, and their certificates are revoked.
//
// An entry without an envelope is state alone. What happened after the former log's end is not known here: see docs/operations.md.
func Carry(ctx context.Context, from Former, in Succession) ([]record.Entry, error) {
	now := func() time.Time { return in.Now }
	c := &carrying{Succession: in, from: from, ctx: ctx, s: &Service{cfg: Config{Pseudonym: in.Pseudonym, Now: now, Rand: in.Rand}}, revoked: map[string]Revocation{}}
	for _, step := range []func() error{c.readRevocations, c.policy, c.orchestrators, c.certificates, c.credentials, c.revocations, c.held, c.grants, c.used, c.feed} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("delegation: carry: %w", err)
		}
	}
	return c.out, nil
}

// carrying is one run of Carry.
type carrying struct {
	Succession
	ctx  context.Context //nolint:containedctx // of one call
	from Former
	s    *Service // makes entries, and has no log
	out  []record.Entry

	revoked map[string]Revocation // by key
	seq     uint64
	known   map[string]bool // services and operators
}

func (c *carrying) entry(d draft) error {
	e, err := c.s.entry(d)
	if err == nil {
		c.out = append(c.out, e)
	}
	return err
}

// state carries keys without an entry.
func (c *carrying) state(m ...record.Mutation) {
	for len(m) > 0 {
		n := min(len(m), partsAtOnce)
		c.out = append(c.out, record.Entry{Mutations: m[:n:n]})
		m = m[n:]
	}
}

func (c *carrying) readRevocations() error {
	r := &revocations{set: c.revoked}
	return c.from.Each(c.ctx, keyRevoked, func(key string, value []byte, _ time.Time) error { return r.read(key, value) })
}

func (c *carrying) isRevoked(kind chain.RevKind, id string) bool {
	_, ok := c.revoked[revKey(kind, id)]
	return ok
}

// policy carries the bundle that decides, with its archive.
func (c *carrying) policy() error {
	value, ok, err := c.from.Get(keyPolicyActive)
	if err != nil || !ok {
		return err
	}
	st, err := read[activeState](keyPolicyActive, value)
	if err != nil {
		return err
	}
	for _, prefix := range []string{keyPolicyPart + st.Digest + "/", keyPolicyStored + st.Digest} {
		if err := c.raw(prefix); err != nil {
			return err
		}
	}
	body := record.PolicyBody{
		Name: st.Name, Digest: st.Digest, Revision: fmt.Sprint(st.Revision), KeyID: st.KeyID, KeyHash: st.KeyHash,
	}
	for _, a := range st.Approvals {
		body.Approvals = append(body.Approvals, record.PolicyApproval{Operator: a.Operator, Serial: a.Serial, Time: a.At})
	}
	return c.entry(draft{
		env: record.Envelope{Type: record.TypePolicy, Policy: st.Digest}, body: body,
		mutations: []record.Mutation{{Key: keyPolicyActive, Value: value}, KnownPolicy(st.Digest)},
	})
}

// raw carries all keys with a prefix as they are.
func (c *carrying) raw(prefix string) error {
	var m []record.Mutation
	err := c.from.Each(c.ctx, prefix, func(key string, value []byte, expires time.Time) error {
		m = append(m, record.Mutation{Key: key, Value: value, Expires: expires})
		return nil
	})
	c.state(m...)
	return err
}

// orchestrators carries their registrations, as new ones.
func (c *carrying) orchestrators() error {
	return c.from.Each(c.ctx, identityKey(chain.Orchestrator, ""), func(key string, value []byte, _ time.Time) error {
		st, err := read[identityState](key, value)
		if err != nil {
			return err
		}
		id, err := chain.ParseID(st.SPIFFEID)
		if err != nil {
			return err
		}
		registration, err := c.s.newID()
		if err != nil {
			return err
		}
		q := st.registration()
		next, err := encode(q.state(id, registration))
		if err != nil {
			return err
		}
		d := draft{
			env:       record.Envelope{Type: record.TypeAdmin, Orchestrator: id.Name()},
			body:      record.AdminBody{Action: "register.orchestrator", Target: id.String(), Detail: q.detail(registration)},
			mutations: []record.Mutation{create(key, next, time.Time{}, errRegistered())},
		}
		if q.OIDCSubject != "" {
			d.payload = record.AdminPayload{OIDCSubject: q.OIDCSubject}
		}
		return c.entry(d)
	})
}

// certificates carries those of services and operators that are valid and not revoked, and with them their registrations.
func (c *carrying) certificates() error {
	c.known = map[string]bool{}
	return c.from.Each(c.ctx, keyCert, func(_ string, value []byte, _ time.Time) error {
		der, _, err := keptOf(value)
		if err != nil {
			return err
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		if !c.Now.Before(cert.NotAfter) || c.isRevoked(chain.RevCertificate, chain.Serial(cert)) || len(cert.URIs) != 1 {
			return nil
		}
		id, err := chain.ParseID(cert.URIs[0].String())
		if err != nil || id.Kind() != chain.Service && id.Kind() != chain.Operator || id.Kind() == chain.Service && id.Name() == ListenerName {
			return nil //nolint:nilerr // not one of those
		}
		return c.certificate(cert, id)
	})
}

func (c *carrying) certificate(cert *x509.Certificate, id chain.ID) error {
	key := identityKey(id.Kind(), id.Name())
	value, ok, err := c.from.Get(key)
	if err != nil || !ok {
		return err
	}
	st, err := read[identityState](key, value)
	if err != nil {
		return err
	}
	line, lined, err := c.from.Get(lineKey(cert))
	if err != nil {
		return err
	}
	stands := lineState{}
	if lined {
		if err := json.Unmarshal(line, &stands); err != nil {
			return err
		}
	}
	for _, serial := range stands.Serials {
		if c.isRevoked(chain.RevCertificate, serial) {
			return nil // renewed over one that is revoked
		}
	}
	issuer := c.issuerOf(cert)
	if issuer == nil {
		return fmt.Errorf("the certificate of %s is not by a CA of this appliance", id)
	}
	serial, known, err := c.from.Get(keySerial + chain.Serial(cert))
	if err != nil {
		return err
	}
	m := []record.Mutation{{Key: keyCert + hexOf(tbsHash(cert)), Value: cert.Raw}}
	if known {
		m = append(m, record.Mutation{Key: keySerial + chain.Serial(cert), Value: serial, Expires: cert.NotAfter.Add(grace)})
	}
	if lined {
		m = append(m, record.Mutation{Key: lineKey(cert), Value: line, Expires: cert.NotAfter.Add(grace)})
	}
	if !c.known[key] {
		c.known[key] = true
		m = append(m, create(key, value, time.Time{}, errRegistered()))
	}
	return c.entry(draft{
		env: record.Envelope{Type: record.TypeIssue},
		body: record.IssueBody{
			Kind: id.Kind().String(), SPIFFEID: id.String(), Serial: chain.Serial(cert), TBSHash: hexOf(tbsHash(cert)),
			SPKIHash: hexOf(chain.SPKIHash(cert)), IssuerSPKIHash: hexOf(chain.SPKIHash(issuer)), NotBefore: cert.NotBefore, NotAfter: cert.NotAfter,
			Role: string(st.Role), Registration: st.Registration, Attested: stands.At,
		},
		mutations: m,
	})
}

func (c *carrying) issuerOf(cert *x509.Certificate) *x509.Certificate {
	for _, ca := range c.Issuers {
		if cert.CheckSignatureFrom(ca) == nil {
			return ca
		}
	}
	return nil
}

// credentials carries users' authenticators.
func (c *carrying) credentials() error {
	return c.from.Each(c.ctx, keyCredential, func(key string, value []byte, _ time.Time) error {
		st, err := read[credentialState](key, value)
		if err != nil {
			return err
		}
		return c.entry(draft{
			env:       record.Envelope{Type: record.TypeAdmin, User: st.User},
			body:      record.AdminBody{Action: opKeep, Target: strings.TrimPrefix(key, keyCredential), Detail: credentialDetail(Credential{ID: st.ID, PublicKey: st.PublicKey})},
			mutations: []record.Mutation{{Key: key, Value: value}, {Key: credentialOf(st.User, st.ID), Value: []byte{1}}},
		})
	})
}

// revocations carries them in their order, under new numbers.
func (c *carrying) revocations() error {
	all := make([]Revocation, 0, len(c.revoked))
	for _, v := range c.revoked {
		all = append(all, v)
	}
	slices.SortFunc(all, func(a, b Revocation) int { return cmp.Compare(a.Seq, b.Seq) })
	for _, v := range all {
		if isOver(v.Expires, c.Now) {
			continue
		}
		var about record.Envelope
		switch v.Kind {
		case chain.RevTask:
			about.Task = v.ID
		case chain.RevAgent, chain.RevSubtree:
			about.Agent = v.ID
		case chain.RevGrant:
			about.Grant = v.ID
		case chain.RevOrchestrator:
			about.Orchestrator = v.ID
		case chain.RevUser, chain.RevCertificate, chain.RevUnknown:
		}
		if err := c.revoke(v, about); err != nil {
			return err
		}
	}
	return nil
}

func (c *carrying) revoke(v Revocation, about record.Envelope) error {
	c.seq++
	v.Seq = c.seq
	d, err := c.s.revokeDraft(Caller{}, RevokeRequest{Kind: v.Kind, ID: v.ID, Reason: v.Reason}, about, v)
	if err != nil {
		return err
	}
	return c.entry(d)
}

// held ends the certificates of orchestrators, also where stock software asks: those of a revoked one stay in CRLs.
func (c *carrying) held() error {
	return c.from.Each(c.ctx, keyHeld, func(key string, _ []byte, expires time.Time) error {
		serial := key[strings.LastIndexByte(key, '/')+1:]
		if c.isRevoked(chain.RevCertificate, serial) {
			return nil
		}
		return c.revoke(Revocation{Kind: chain.RevCertificate, ID: serial, Reason: restored, Time: c.Now.UTC(), Expires: expires}, record.Envelope{})
	})
}

// restored is why something ended that was in force in the former log.
const restored = "the appliance was restored from a backup"

// grants ends those that are active. All below them ends with them, here and where the feed is followed.
func (c *carrying) grants() error {
	return c.from.Each(c.ctx, keyGrant, func(key string, value []byte, _ time.Time) error {
		st, err := read[grantState](key, value)
		if err != nil {
			return err
		}
		if st.Status != GrantActive || !c.Now.Before(st.NotAfter) || c.isRevoked(chain.RevGrant, st.ID) {
			return nil
		}
		end := revocable{end: st.NotAfter}
		about := record.Envelope{Grant: st.ID, User: c.Pseudonym(st.User.Issuer, st.User.Subject)}
		return c.revoke(Revocation{Kind: chain.RevGrant, ID: st.ID, Reason: restored, Time: c.Now.UTC(), Expires: end.expires()}, about)
	})
}

// used carries what was used once, so that it is not used again.
func (c *carrying) used() error {
	for _, prefix := range []string{keyProof, keySpent, keyEvent, keyEnded, keyRenewed} {
		if err := c.raw(prefix); err != nil {
			return err
		}
	}
	return nil
}

// feed begins a new epoch of the feed: followers ask for all of it.
func (c *carrying) feed() error {
	head := feedState{Epoch: 1}
	value, known, err := c.from.Get(keyFeed)
	if err != nil {
		return err
	}
	if known {
		st, err := read[feedState](keyFeed, value)
		if err != nil {
			return err
		}
		head = *st
	}
	next, err := encode(feedState{Epoch: head.Epoch + c.Epochs, Seq: c.seq + reserved})
	if err != nil {
		return err
	}
	c.state(record.Mutation{Key: keyFeed, Value: next})
	return nil
}

// Past reads, of the state of a log that does not go on, what evidence bundles want beside its entries.
type Past struct{ s *Service }

// NewPast reads a log.
func NewPast(log Log) Past { return Past{&Service{cfg: Config{Log: log}}} }

// Certificate is [Service.Certificate].
func (p Past) Certificate(tbs [32]byte) (der []byte, ok bool, err error) { return p.s.Certificate(tbs) }

// PolicyArchive is [Service.PolicyArchive].
func (p Past) PolicyArchive(digest string) ([]byte, error) { return p.s.PolicyArchive(digest) }
