package bundle_test

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// rekey gives the agent at the end of d another key, and returns its entry, its chain and its key.
func (w *world) rekey(d chain.Delegation, old *ecdsa.PrivateKey, jws string, change func(*record.IssueBody)) (uint64, chain.Delegation, *ecdsa.PrivateKey) {
	t := w.t
	next := newKey(t)
	last := d.Hops[len(d.Hops)-1]
	jkt, err := chain.Thumbprint(&next.PublicKey)
	must(t, err)
	now := w.now.Truncate(time.Second)
	link, err := chain.SignRekey(old, chain.Rekey{
		Agent: last.ID, Audience: origin, TaskID: chain.FormatUUID(d.TaskID), IssuedAt: now, Expiry: now.Add(time.Minute), NewKey: jkt,
	})
	must(t, err)
	d.Hops = slices.Clone(d.Hops)
	d.Hops[len(d.Hops)-1].SPKIHash = sha256.Sum256(spki(t, &next.PublicKey))
	index := w.issueAs(d, &next.PublicKey, jws, link, func(b *record.IssueBody) {
		sum := sha256.Sum256([]byte(link))
		b.Rekey = &record.RekeyBody{PreviousSPKIHash: hex.EncodeToString(last.SPKIHash[:]), LinkHash: hex.EncodeToString(sum[:])}
		change(b)
	})
	return index, d, next
}

func unchanged(*record.IssueBody) {}

// enrolled issues a sub-agent that redeemed a token; its delegator signed for the token's hash.
func (w *world) enrolled(d chain.Delegation, n int, by *ecdsa.PrivateKey, parent [32]byte, redeemed string) uint64 {
	t := w.t
	key, token := newKey(t), sha256.Sum256([]byte("token"))
	spiffeID, err := chain.AgentID(domain, "research", id(n))
	must(t, err)
	end := w.now.Add(2 * time.Minute).Truncate(time.Second)
	jws, err := chain.SignDelegation(by, chain.Claims{
		Issuer: d.Hops[len(d.Hops)-1].ID, Subject: spiffeID.String(), Audience: origin, JTI: id(n), TaskID: chain.FormatUUID(d.TaskID),
		Scope: scope(t, "database:read:patients"), Expiry: end, IssuedAt: w.now.Truncate(time.Second), MaxDepth: 0, ParentHash: parent, EnrolHash: &token,
	})
	must(t, err)
	confirmation := chain.DelegationHash(jws)
	d, err = d.Extend(chain.Hop{
		ID: spiffeID.String(), SPKIHash: sha256.Sum256(spki(t, &key.PublicKey)), Scope: scope(t, "database:read:patients"), NotAfter: end, Confirmation: &confirmation,
	})
	must(t, err)
	sum := sha256.Sum256([]byte(redeemed))
	w.token(d, n, token, end)
	if redeemed != "token" {
		w.token(d, n, sum, end)
	}
	return w.issueAs(d, &key.PublicKey, jws, "", func(b *record.IssueBody) { b.EnrollmentHash = hex.EncodeToString(sum[:]) })
}

// token records a token for the agent at the end of d, which has no key yet.
func (w *world) token(d chain.Delegation, n int, token [32]byte, expires time.Time) {
	hops := hopBodies(d)
	hops[len(hops)-1].SPKIHash = ""
	w.add(record.TypeEnrollment, record.Envelope{Task: chain.FormatUUID(d.TaskID), Agent: id(n)}, record.EnrollmentBody{
		SpawnID: id(n), SPIFFEID: d.Hops[len(d.Hops)-1].ID, TokenHash: hex.EncodeToString(token[:]), Expires: expires, Hops: hops,
	}, nil)
}

// vouched is an agent of the orchestrator's that nobody signed for, with its key.
func (w *world) vouched(p *physician, n int) (chain.Delegation, *ecdsa.PrivateKey) {
	t, key := w.t, newKey(w.t)
	spiffeID, err := chain.AgentID(domain, "research", id(n))
	must(t, err)
	d := p.agent
	d.Hops = slices.Clone(d.Hops[:1])
	d, err = d.Extend(chain.Hop{
		ID: spiffeID.String(), SPKIHash: sha256.Sum256(spki(t, &key.PublicKey)), Scope: scope(t, "database:read:patients"),
		NotAfter: w.now.Add(time.Minute).Truncate(time.Second), MaxDepth: 1,
	})
	must(t, err)
	return d, key
}

// redeem issues an agent of the orchestrator's for a token, without any delegator's signature, after before was recorded.
func (w *world) redeem(p *physician, before func(d chain.Delegation, token [32]byte)) uint64 {
	token := sha256.Sum256([]byte("token"))
	d, key := w.vouched(p, 0x120)
	before(d, token)
	return w.issueAs(d, &key.PublicKey, "", "", func(b *record.IssueBody) { b.EnrollmentHash = hex.EncodeToString(token[:]) })
}

// TestRedeemedTokens: what was redeemed must have been recorded as it was redeemed, by the hop it was made for, and in time.
func TestRedeemedTokens(t *testing.T) {
	for name, tc := range map[string]struct {
		before func(w *world, d chain.Delegation, token [32]byte)
		want   string
	}{
		"as recorded":    {func(w *world, d chain.Delegation, token [32]byte) { w.token(d, 0x120, token, w.now.Add(time.Minute)) }, ""},
		"never recorded": {func(*world, chain.Delegation, [32]byte) {}, "no earlier entry records its token"},
		"with more scope": {func(w *world, d chain.Delegation, token [32]byte) {
			d.Hops = slices.Clone(d.Hops)
			d.Hops[1].Scope = scope(w.t, "database:read:beds")
			w.token(d, 0x120, token, w.now.Add(time.Minute))
		}, "its chain is not the one"},
		"of another agent": {func(w *world, d chain.Delegation, token [32]byte) {
			d.Hops = slices.Clone(d.Hops)
			d.Hops[1].ID = strings.Replace(d.Hops[1].ID, id(0x120), id(0x121), 1)
			w.token(d, 0x121, token, w.now.Add(time.Minute))
		}, "no earlier entry records its token"},
		"too late": {func(w *world, d chain.Delegation, token [32]byte) {
			w.token(d, 0x120, token, w.now.Add(-2*time.Minute))
		}, "after its token had expired"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, newSoftTPM(t))
			index := w.redeem(w.play(0x100), func(d chain.Delegation, token [32]byte) { tc.before(w, d, token) })
			w.seal()
			r := verify(t, written(t, w), bundle.Options{})
			if tc.want == "" {
				if !r.Valid {
					show(t, r)
					t.Error("a good log is not valid")
				}
				return
			}
			wantFinding(t, r, expected{bundle.CheckDelegation, int64(index), "entries/0.jsonl", ""})
			told := func(c bundle.Check) bool { return strings.Contains(c.Detail, tc.want) }
			if r.Valid || !slices.ContainsFunc(r.Failed(), told) {
				show(t, r)
				t.Error("valid, or another finding")
			}
		})
	}
}

// saga is a log with two re-keys, children of the old and the new key, and a token.
type saga struct {
	*physician
	rekeyed, again, child, token uint64
}

func (w *world) saga() saga {
	p := w.play(0x100)
	confirmation := *p.agent.Hops[1].Confirmation
	s := saga{physician: p}
	var d chain.Delegation
	var key *ecdsa.PrivateKey
	s.rekeyed, d, key = w.rekey(p.agent, p.agentKey, w.jws[p.first], unchanged)
	s.again, d, key = w.rekey(d, key, w.jws[p.first], unchanged)
	s.child, _ = w.spawn(d, 0x110, key, newKey(w.t), confirmation, "database:read:patients", 0)
	s.token = w.enrolled(d, 0x111, key, confirmation, "token")
	w.seal()
	return s
}

func TestRekeyedBundle(t *testing.T) {
	w := newWorld(t, newSoftTPM(t))
	s := w.saga()
	m := written(t, w)
	r := verify(t, m, bundle.Options{})
	if !r.Valid || r.Completeness != "complete" {
		show(t, r)
		t.Fatal("a good log is not valid")
	}
	if r.Hops == nil || *r.Hops != (bundle.Hops{Confirmed: 6}) {
		t.Errorf("%+v", r.Hops)
	}
	at := func(index uint64, status bundle.Status) expected {
		return expected{bundle.CheckConfirmation, int64(index), "delegators/0.jsonl", status}
	}
	for name, tc := range map[string]struct {
		tamper func(t *testing.T, m memory)
		want   []expected
		detail string
	}{
		"a link taken out": {
			func(t *testing.T, m memory) {
				replaceOnce(t, m, "delegators/0.jsonl", `,"link":"`+w.links[s.rekeyed]+`"`, "")
			},
			[]expected{at(s.rekeyed, bundle.Unproven), at(s.child, bundle.Unproven), at(s.token, bundle.Unproven)},
			"link",
		},
		"links swapped": {
			func(t *testing.T, m memory) {
				a, b := w.links[s.rekeyed], w.links[s.again]
				replaceOnce(t, m, "delegators/0.jsonl", a, "x")
				replaceOnce(t, m, "delegators/0.jsonl", b, a)
				replaceOnce(t, m, "delegators/0.jsonl", `"x"`, `"`+b+`"`)
			},
			[]expected{at(s.rekeyed, ""), at(s.again, ""), at(s.child, "")},
			"its link is not the one in the entry",
		},
		"a parent's statement swapped": {
			func(t *testing.T, m memory) {
				replaceOnce(t, m, "delegators/0.jsonl", w.jws[s.child], w.jws[s.second])
			},
			[]expected{at(s.child, "")},
			"hop 2 names another delegation",
		},
		"the orchestrator's statement swapped": {
			func(t *testing.T, m memory) {
				replaceOnce(t, m, "delegators/0.jsonl", w.jws[s.first], w.jws[s.second])
			},
			[]expected{at(s.first, ""), at(s.child, "")},
			"hop 1 names another delegation",
		},
	} {
		t.Run(name, func(t *testing.T) {
			changed := m.clone()
			tc.tamper(t, changed)
			changed.remanifest()
			r := verify(t, changed, bundle.Options{})
			failing := false
			for _, want := range tc.want {
				wantFinding(t, r, want)
				failing = failing || want.status == ""
			}
			if !slices.ContainsFunc(r.Checks, func(c bundle.Check) bool { return strings.Contains(c.Detail, tc.detail) }) {
				t.Errorf("nothing says %q", tc.detail)
				show(t, r)
			}
			if r.Valid == failing {
				t.Errorf("valid %v", r.Valid)
			}
		})
	}
}

// TestFalseLineages are lies that the appliance itself would have to tell, about whom an agent stems from.
func TestFalseLineages(t *testing.T) {
	entry := func(index uint64) expected {
		return expected{bundle.CheckDelegation, int64(index), "entries/0.jsonl", ""}
	}
	jws := func(index uint64) expected {
		return expected{bundle.CheckConfirmation, int64(index), "delegators/0.jsonl", ""}
	}
	for name, build := range map[string]func(t *testing.T, w *world) expected{
		"a parent that the log never recorded": func(t *testing.T, w *world) expected {
			p := w.play(0x100)
			ghost := newKey(t)
			d := p.agent
			d.Hops = slices.Clone(d.Hops)
			d.Hops[1].SPKIHash = sha256.Sum256(spki(t, &ghost.PublicKey))
			at, _ := w.spawn(d, 0x110, ghost, newKey(t), *d.Hops[1].Confirmation, "database:read:patients", 0)
			return entry(at)
		},
		"an orchestrator that the log never recorded": func(t *testing.T, w *world) expected {
			p := w.play(0x100)
			ghost := newKey(t)
			d := p.agent
			d.Hops = slices.Clone(d.Hops[:1])
			d.Hops[0].SPKIHash = sha256.Sum256(spki(t, &ghost.PublicKey))
			at, _ := w.spawn(d, 0x110, ghost, newKey(t), sha256.Sum256(p.document), "database:read:patients", 0)
			return entry(at)
		},
		"a parent with another chain": func(t *testing.T, w *world) expected {
			p := w.play(0x100)
			d := p.agent
			d.Hops = slices.Clone(d.Hops)
			d.Hops[1].NotAfter = d.Hops[1].NotAfter.Add(time.Minute)
			at, _ := w.spawn(d, 0x110, p.agentKey, newKey(t), *d.Hops[1].Confirmation, "database:read:patients", 0)
			return entry(at)
		},
		"a parent that came later": func(t *testing.T, w *world) expected {
			p := w.play(0x100)
			late := newKey(t)
			jkt := late.PublicKey
			d := p.agent
			d.Hops = slices.Clone(d.Hops)
			d.Hops[1].SPKIHash = sha256.Sum256(spki(t, &jkt))
			at, _ := w.spawn(d, 0x110, late, newKey(t), *d.Hops[1].Confirmation, "database:read:patients", 0)
			w.issueAgent(d, &jkt, w.jws[p.first])
			return entry(at)
		},
		"another key without a re-key": func(t *testing.T, w *world) expected {
			p := w.play(0x100)
			d := p.agent
			d.Hops = slices.Clone(d.Hops)
			key := newKey(t)
			d.Hops[1].SPKIHash = sha256.Sum256(spki(t, &key.PublicKey))
			return entry(w.issueAgent(d, &key.PublicKey, w.jws[p.first]))
		},
		"another chain for the same key": func(t *testing.T, w *world) expected {
			p := w.play(0x100)
			d := p.agent
			d.Hops = slices.Clone(d.Hops)
			d.Hops[1].MaxDepth--
			return entry(w.issueAgent(d, &p.agentKey.PublicKey, w.jws[p.first]))
		},
		"a re-key by nobody's key": func(t *testing.T, w *world) expected {
			p := w.play(0x100)
			at, _, _ := w.rekey(p.agent, newKey(t), w.jws[p.first], func(b *record.IssueBody) { b.Rekey.PreviousSPKIHash = strings.Repeat("ab", 32) })
			return entry(at)
		},
		"a re-key by another's key": func(t *testing.T, w *world) expected {
			p := w.play(0x100)
			at, _, _ := w.rekey(p.agent, p.orchKey, w.jws[p.first], func(b *record.IssueBody) {
				sum := sha256.Sum256(spki(t, &p.orchKey.PublicKey))
				b.Rekey.PreviousSPKIHash = hex.EncodeToString(sum[:])
			})
			return entry(at)
		},
		"a re-key that the old key did not sign": func(t *testing.T, w *world) expected {
			p := w.play(0x100)
			at, _, _ := w.rekey(p.agent, newKey(t), w.jws[p.first], unchanged)
			return jws(at)
		},
		"a link of another day": func(t *testing.T, w *world) expected {
			p := w.play(0x100)
			now := w.now
			w.now = now.Add(-10 * time.Minute)
			at, _, _ := w.rekey(p.agent, p.agentKey, w.jws[p.first], func(*record.IssueBody) { w.now = now })
			return jws(at)
		},
		"another token than the delegator signed for": func(t *testing.T, w *world) expected {
			p := w.play(0x100)
			at := w.enrolled(p.agent, 0x110, p.agentKey, *p.agent.Hops[1].Confirmation, "another token")
			return expected{bundle.CheckConfirmation, int64(at), "entries/0.jsonl", ""}
		},
		"a grant that the log never recorded, and no certificate": func(t *testing.T, w *world) expected {
			p := w.play(0x100)
			d := p.agent
			d.Hops = slices.Clone(d.Hops[:1])
			d.Grant.GrantID = rawID(t, id(0x900))
			at, _ := w.spawn(d, 0x110, p.orchKey, newKey(t), sha256.Sum256(p.document), "database:read:patients", 0)
			delete(w.issued, at)
			return entry(at)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, newSoftTPM(t))
			want := build(t, w)
			w.seal()
			r := verify(t, written(t, w), bundle.Options{})
			wantFinding(t, r, want)
			if r.Valid {
				t.Error("valid")
			}
		})
	}
}

// TestVouchedHops: a hop that nobody signed for is counted as the CA's word.
func TestVouchedHops(t *testing.T) {
	w := newWorld(t, newSoftTPM(t))
	d, key := w.vouched(w.play(0x100), 0x110)
	w.issueAgent(d, &key.PublicKey, "")
	w.seal()
	r := verify(t, written(t, w), bundle.Options{})
	if !r.Valid || *r.Hops != (bundle.Hops{Confirmed: 2, Vouched: 1}) {
		show(t, r)
		t.Errorf("valid %v, %+v", r.Valid, r.Hops)
	}
	m := written(t, w)
	delete(m, "evidence/"+id(0x100)+".json")
	m.remanifest()
	if r := verify(t, m, bundle.Options{}); *r.Hops != (bundle.Hops{Confirmed: 1, Vouched: 2}) {
		t.Errorf("without the grant: %+v", r.Hops)
	}
}
