package bundle_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// revoke records a revocation.
func (w *world) revoke(kind chain.RevKind, what string) uint64 {
	return w.add(record.TypeRevoke, record.Envelope{}, record.RevokeBody{Kind: kind.String(), ID: what, Seq: uint64(len(w.entries))}, nil)
}

// serial is that of the certificate under an entry.
func (w *world) serial(entry uint64) string {
	block, _ := pem.Decode(w.issued[entry])
	cert, err := x509.ParseCertificate(block.Bytes)
	must(w.t, err)
	return chain.Serial(cert)
}

// allow records a decision for the certificate under an entry, with a chain or without.
func (w *world) allow(entry uint64, d *chain.Delegation, change func(*record.Envelope, *record.DecisionBody)) uint64 {
	block, _ := pem.Decode(w.issued[entry])
	cert, err := x509.ParseCertificate(block.Bytes)
	must(w.t, err)
	tbs := chain.TBSHash(cert)
	env := record.Envelope{Service: "records"}
	body := record.DecisionBody{DecisionID: id(len(w.entries)), Allow: true, ResourceType: "database", ResourceID: "patients", Action: "read", TBSHash: hex.EncodeToString(tbs[:])}
	if d != nil {
		env.Task, env.Grant, body.Hops = chain.FormatUUID(d.TaskID), chain.FormatUUID(d.Grant.GrantID), hopBodies(*d)
	}
	change(&env, &body)
	return w.add(record.TypeDecision, env, body, nil)
}

func asIs(*record.Envelope, *record.DecisionBody) {}

// child is a sub-agent of p's agent.
func (w *world) child(p *physician, n int) uint64 {
	index, _ := w.spawn(p.agent, n, p.agentKey, newKey(w.t), *p.agent.Hops[1].Confirmation, "database:read:patients", 0)
	return index
}

// sibling is another agent of the orchestrator's.
func (w *world) sibling(p *physician, n int) uint64 {
	d := p.agent
	d.Hops = slices.Clone(d.Hops[:1])
	index, _ := w.spawn(d, n, p.orchKey, newKey(w.t), sha256.Sum256(p.document), "database:read:patients", 1)
	return index
}

func (w *world) orchestratorEntry() uint64 {
	return uint64(slices.IndexFunc(w.entries, func(e record.Stored) bool { return strings.Contains(string(e.Envelope), `"kind":"orchestrator"`) }))
}

// again records the issue entry of a certificate once more, as a retry after a failed signature does.
func (w *world) again(entry uint64) uint64 {
	env, err := record.Check(w.entries[entry].Envelope)
	must(w.t, err)
	index := w.add(record.TypeIssue, env, nil, nil)
	w.issued[index], w.jws[index] = w.issued[entry], w.jws[entry]
	return index
}

// What is revoked ends everything that comes after it in the log and rests on it, and nothing else.
func TestRevocations(t *testing.T) {
	agent, sub, task, grant := id(0x102), id(0x103), id(0x101), id(0x100)
	type row struct {
		kind chain.RevKind
		what func(w *world, p *physician) string
		then func(w *world, p *physician) uint64
		ends bool
	}
	is := func(text string) func(*world, *physician) string {
		return func(*world, *physician) string { return text }
	}
	serialOf := func(entry func(w *world, p *physician) uint64) func(*world, *physician) string {
		return func(w *world, p *physician) string { return w.serial(entry(w, p)) }
	}
	first := func(_ *world, p *physician) uint64 { return p.first }
	second := func(_ *world, p *physician) uint64 { return p.second }
	orch := func(w *world, _ *physician) uint64 { return w.orchestratorEntry() }
	child := func(w *world, p *physician) uint64 { return w.child(p, 0x110) }
	sibling := func(w *world, p *physician) uint64 { return w.sibling(p, 0x110) }
	rekey := func(w *world, p *physician) uint64 {
		index, _, _ := w.rekey(p.agent, p.agentKey, w.jws[p.first], unchanged)
		return index
	}
	enrollment := func(w *world, p *physician) uint64 {
		d, err := p.agent.Extend(chain.Hop{SPKIHash: [32]byte{1}, ID: strings.Replace(p.agent.Hops[1].ID, agent, id(0x110), 1), Scope: p.agent.Hops[1].Scope, NotAfter: p.agent.Hops[1].NotAfter})
		must(w.t, err)
		w.token(d, 0x110, sha256.Sum256([]byte("token")), w.now.Add(time.Minute))
		return uint64(len(w.entries) - 1)
	}
	// redeemed is about what is revoked between a token and its redemption.
	redeemed := func(kind chain.RevKind, what func(*world, *physician) string) func(w *world, p *physician) uint64 {
		return func(w *world, p *physician) uint64 {
			return w.redeem(p, func(d chain.Delegation, token [32]byte) {
				w.token(d, 0x120, token, w.now.Add(time.Minute))
				w.revoke(kind, what(w, p))
			})
		}
	}
	token := func(w *world, p *physician) uint64 {
		return w.accessToken(p, func(*record.Envelope, *record.TokenBody, *[]byte) {})
	}
	decision := func(w *world, p *physician) uint64 { return w.allow(p.first, &p.agent, asIs) }
	bare := func(w *world, p *physician) uint64 { return w.allow(p.second, nil, asIs) }
	refusal := func(w *world, p *physician) uint64 {
		return w.allow(p.first, &p.agent, func(_ *record.Envelope, b *record.DecisionBody) { b.Allow = false })
	}
	retry := func(w *world, p *physician) uint64 { return w.again(p.second) }
	attested := func(w *world, _ *physician) uint64 {
		w.issuePeer(&newKey(w.t).PublicKey)
		return uint64(len(w.entries) - 1)
	}
	opened := func(w *world, _ *physician) uint64 {
		return w.add(record.TypeTask, record.Envelope{Grant: grant, Task: task, Orchestrator: "langgraph"}, record.TaskBody{TaskID: task, GrantID: grant, Status: "open"}, nil)
	}
	for name, tc := range map[string]row{
		"a sub-agent of a revoked agent":                 {chain.RevAgent, is(agent), child, true},
		"a sub-agent below a revoked subtree":            {chain.RevSubtree, is(agent), child, true},
		"a sub-agent of a revoked task":                  {chain.RevTask, is(task), child, true},
		"a sub-agent of a withdrawn grant":               {chain.RevGrant, is(grant), child, true},
		"a sub-agent for a revoked user":                 {chain.RevUser, is(pseudonym), child, true},
		"a sub-agent below a revoked orchestrator":       {chain.RevOrchestrator, is("langgraph"), child, true},
		"a sub-agent by a revoked certificate":           {chain.RevCertificate, serialOf(first), child, true},
		"an agent by a revoked certificate":              {chain.RevCertificate, serialOf(orch), sibling, true},
		"a token by a revoked certificate":               {chain.RevCertificate, serialOf(first), enrollment, true},
		"a token below a revoked agent":                  {chain.RevAgent, is(agent), enrollment, true},
		"a token for an agent that was revoked before":   {chain.RevAgent, is(id(0x110)), enrollment, true},
		"a redemption in a revoked task":                 {chain.RevUnknown, nil, redeemed(chain.RevTask, is(task)), true},
		"a redemption after its delegator's certificate": {chain.RevUnknown, nil, redeemed(chain.RevCertificate, serialOf(orch)), false},
		"a redemption by a revoked agent":                {chain.RevUnknown, nil, redeemed(chain.RevAgent, is(id(0x120))), true},
		"a re-key of a revoked agent":                    {chain.RevAgent, is(agent), rekey, true},
		"a re-key over a revoked certificate":            {chain.RevCertificate, serialOf(first), rekey, true},
		"a re-key after a subtree":                       {chain.RevSubtree, is(agent), rekey, false},
		"an access token over a revoked certificate":     {chain.RevCertificate, serialOf(first), token, true},
		"an access token of a revoked agent":             {chain.RevAgent, is(agent), token, true},
		"an access token under a revoked orchestrator":   {chain.RevOrchestrator, is("langgraph"), token, true},
		"an access token of another agent":               {chain.RevAgent, is(sub), token, false},
		"a permission for a revoked certificate":         {chain.RevCertificate, serialOf(first), decision, true},
		"a permission for a revoked agent":               {chain.RevAgent, is(agent), decision, true},
		"a permission that keeps quiet about its chain":  {chain.RevAgent, is(agent), bare, true},
		"a permission for the head of a revoked subtree": {chain.RevSubtree, is(agent), decision, false},
		"a permission below a revoked subtree":           {chain.RevSubtree, is(agent), bare, true},
		"a permission in a completed task":               {chain.RevTask, is(task), bare, true},
		"a refusal":                                      {chain.RevAgent, is(agent), refusal, false},
		"a retry in a revoked task":                      {chain.RevTask, is(task), retry, true},
		"a retry of a revoked certificate":               {chain.RevCertificate, serialOf(second), retry, true},
		"a retry after its delegator's certificate":      {chain.RevCertificate, serialOf(first), retry, false},
		"a retry":                              {chain.RevAgent, is(id(0x999)), retry, false},
		"another agent, after one was revoked": {chain.RevAgent, is(agent), sibling, false},
		"another certificate of a revoked orchestrator": {chain.RevOrchestrator, is("langgraph"), attested, true},
		"an orchestrator attests after its certificate": {chain.RevCertificate, serialOf(orch), attested, false},
		"a task under a withdrawn grant":                {chain.RevGrant, is(grant), opened, true},
		"a task for a revoked user":                     {chain.RevUser, is(pseudonym), opened, true},
		"a kind and the id of another kind":             {chain.RevTask, is(agent), child, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, newSoftTPM(t))
			p := w.play(0x100)
			if tc.what != nil {
				w.revoke(tc.kind, tc.what(w, p))
			}
			index := tc.then(w, p)
			w.seal()
			r := verify(t, written(t, w), bundle.Options{})
			if !tc.ends {
				if !r.Valid || r.Completeness != "complete" {
					show(t, r)
					t.Error("a good log is not valid")
				}
				return
			}
			wantFinding(t, r, expected{bundle.CheckRevocation, int64(index), "entries/0.jsonl", ""})
			if failed := r.Failed(); r.Valid || len(failed) != 1 {
				show(t, r)
				t.Errorf("valid %v, %d findings", r.Valid, len(failed))
			}
		})
	}
}

// Of a part of a log the verifier judges by what is there, and says what it could not see.
func TestRevocationsInAPart(t *testing.T) {
	w := newWorld(t, newSoftTPM(t))
	p := w.play(0x100)
	w.seal()
	w.decide(300)
	w.revoke(chain.RevAgent, id(0x102))
	w.seal()
	w.decide(300)
	late := w.allow(p.first, &p.agent, asIs)
	w.seal()
	o := w.options()
	for name, tc := range map[string]struct {
		from     uint64
		want     bundle.Status
		complete string
	}{
		"from the start":                               {0, bundle.Fail, "complete"},
		"from where it was revoked":                    {257, bundle.Fail, "complete"},
		"behind the entry that the part does not hold": {520, bundle.Unproven, "unproven"},
	} {
		t.Run(name, func(t *testing.T) {
			o.From = tc.from
			m := memory{}
			must(t, bundle.Write(t.Context(), m, w, o))
			r := verify(t, m, bundle.Options{Range: &bundle.Range{From: tc.from, To: uint64(len(w.entries))}})
			index := int64(late)
			if tc.want == bundle.Unproven {
				index = 512
			}
			wantFinding(t, r, expected{bundle.CheckRevocation, index, "entries/2.jsonl", tc.want})
			if r.Valid != (tc.want == bundle.Unproven) || r.Completeness != tc.complete {
				show(t, r)
				t.Errorf("valid %v, %s", r.Valid, r.Completeness)
			}
		})
	}
}

// A key that has a second certificate can still ask.
func TestARevokedCertificateOfTwo(t *testing.T) {
	w := newWorld(t, newSoftTPM(t))
	p := w.play(0x100)
	w.issuePeer(&p.orchKey.PublicKey)
	second := uint64(len(w.entries) - 1)
	w.revoke(chain.RevCertificate, w.serial(w.orchestratorEntry()))
	good := w.sibling(p, 0x110)
	w.revoke(chain.RevCertificate, w.serial(second))
	bad := w.sibling(p, 0x111)
	w.seal()
	r := verify(t, written(t, w), bundle.Options{})
	wantFinding(t, r, expected{bundle.CheckRevocation, int64(bad), "entries/0.jsonl", ""})
	if len(r.Failed()) != 1 {
		show(t, r)
		t.Errorf("entry %d is good", good)
	}
}

// renewal gives the orchestrator another certificate over that of an entry.
func (w *world) renewal(over string, wait time.Duration) uint64 {
	key := newKey(w.t)
	w.issuePeer(&key.PublicKey)
	index := uint64(len(w.entries) - 1)
	env, err := record.Check(w.entries[index].Envelope)
	must(w.t, err)
	body, err := record.DecodeBody[record.IssueBody](env)
	must(w.t, err)
	w.entries, w.leaves = w.entries[:index], w.leaves[:index]
	body.Renews = over
	w.now = w.now.Add(wait)
	return w.add(record.TypeIssue, record.Envelope{Orchestrator: "langgraph"}, body, nil)
}

// A certificate ends those that are renewed over it, and over those. Only the last is held to the revocations when the entry is committed.
func TestRevokedRenewals(t *testing.T) {
	for name, tc := range map[string]struct {
		far  bool // the revoked one is not the last
		wait time.Duration
		ends bool
	}{
		"over the revoked one, at once":           {false, 0, true},
		"over another in between, at once":        {true, 0, false},
		"over another in between, a minute later": {true, 2 * time.Minute, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, newSoftTPM(t))
			w.play(0x100)
			first := w.serial(w.orchestratorEntry())
			over := first
			if tc.far {
				over = w.serial(w.renewal(first, 0))
			}
			w.revoke(chain.RevCertificate, first)
			index := w.renewal(over, tc.wait)
			w.seal()
			r := verify(t, written(t, w), bundle.Options{})
			if tc.ends {
				wantFinding(t, r, expected{bundle.CheckRevocation, int64(index), "entries/0.jsonl", ""})
			} else if !r.Valid {
				show(t, r)
				t.Error("a good log is not valid")
			}
		})
	}
}

// Who is allowed something has a certificate that the log recorded before.
func TestAllowedAndNeverRecorded(t *testing.T) {
	w := newWorld(t, newSoftTPM(t))
	p := w.play(0x100)
	unknown := func(_ *record.Envelope, b *record.DecisionBody) { b.TBSHash = strings.Repeat("ab", 32) }
	at := w.allow(p.first, &p.agent, unknown)
	w.seal()
	r := verify(t, written(t, w), bundle.Options{})
	wantFinding(t, r, expected{bundle.CheckDelegation, int64(at), "entries/0.jsonl", ""})
	if len(r.Failed()) != 1 {
		show(t, r)
	}
}

// Without the certificate's entry a part of a log holds a decision to the chain that it states itself.
func TestAllowedInAPartWithoutItsCertificate(t *testing.T) {
	w := newWorld(t, newSoftTPM(t))
	p := w.play(0x100)
	w.decide(1)
	w.revoke(chain.RevSubtree, id(0x102))
	d, err := p.agent.Extend(chain.Hop{SPKIHash: [32]byte{1}, ID: strings.Replace(p.agent.Hops[1].ID, id(0x102), id(0x110), 1), Scope: p.agent.Hops[1].Scope, NotAfter: p.agent.Hops[1].NotAfter})
	must(t, err)
	at := w.allow(p.first, &d, func(_ *record.Envelope, b *record.DecisionBody) { b.TBSHash = strings.Repeat("ab", 32) })
	w.seal()
	r := verify(t, written(t, w), bundle.Options{Range: &bundle.Range{From: 0, To: uint64(len(w.entries))}})
	wantFinding(t, r, expected{bundle.CheckRevocation, int64(at), "entries/0.jsonl", ""})
}
