package delegation_test

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// renew gets a new certificate over the present one.
func (r *rig) renew(name string, present identity, key *ecdsa.PrivateKey) (identity, error) {
	r.t.Helper()
	out, err := r.s.Attest(r.t.Context(), delegation.Attestation{Name: name, Method: "renew", Peer: present.certs, CSR: csr(r.t, key)})
	if err != nil {
		return identity{}, err
	}
	return r.identity(key, out.Chain), nil
}

func TestOrchestratorsRenew(t *testing.T) {
	r := newRig(t)
	first := r.orchestrator("lab")
	task := r.task(first)
	r.clock = r.clock.Add(20 * time.Minute)
	second, err := r.renew("lab", first, first.key)
	if err != nil {
		t.Fatal(err)
	}
	body, err := record.DecodeBody[record.IssueBody](r.log.last(t))
	if err != nil {
		t.Fatal(err)
	}
	if body.Renews != chain.Serial(first.certs[0]) || body.Attestation != "join_token" || !body.Attested.Equal(r.clock.Add(-20*time.Minute)) {
		t.Errorf("%+v", body)
	}
	third, err := r.renew("lab", second, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, orch := range map[string]identity{"the first": first, "the second": second, "with a new key": third} {
		if _, err := r.s.Spawn(t.Context(), r.auth(orch), r.request(task, newKey(t))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The user's grant names the key that asked for it. After a renewal with another key the chain says so: only the CA
// vouches for the first hop.
func TestANewKeyIsNotTheOneInTheGrant(t *testing.T) {
	r := newRig(t)
	first := r.orchestrator("lab")
	task := r.task(first)
	second, err := r.renew("lab", first, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := r.s.GrantDocument(task.GrantID, "https://idp.example", "physician-1")
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		orch identity
		want chain.Status
	}{"the key of the grant": {first, chain.Pass}, "another": {second, chain.NotEvaluated}} {
		agent := newKey(t)
		q := r.request(task, agent)
		q.Confirmation = r.jws(tc.orch, q, sha256.Sum256(doc), agent)
		out, err := r.s.Spawn(t.Context(), r.auth(tc.orch), q)
		if err != nil {
			t.Fatal(err)
		}
		report := chain.Verify(chain.Input{
			Chain: r.identity(agent, out.Chain).certs, Trust: r.roots, Now: r.clock, GrantDocument: doc,
			Delegations: []string{"", q.Confirmation}, Keys: [][]byte{tc.orch.certs[0].RawSubjectPublicKeyInfo},
		})
		for _, c := range report.Checks {
			if c.Name == chain.CheckConfirmation && c.Status != tc.want {
				t.Errorf("%s: %+v, want %v", name, c, tc.want)
			}
			if c.Name == chain.CheckConfirmation && tc.want == chain.NotEvaluated && c.Code != chain.CodeOrchestratorKey {
				t.Errorf("%s: %+v", name, c)
			}
		}
	}
}

func TestServicesRenew(t *testing.T) {
	r := newRig(t)
	records := r.service("records")
	key := newKey(t)
	out, err := r.s.Renew(t.Context(), records, "records", csr(t, key))
	if err != nil {
		t.Fatal(err)
	}
	r.auth(r.identity(key, out.Chain))
	other := r.service("other")
	if _, err := r.s.Renew(t.Context(), other, "records", csr(t, key)); code(t, err) != "renewal_not_yours" {
		t.Errorf("another service's: %v", err)
	}
	if r.log.last(t).Type != record.TypeDeny {
		t.Error("the refusal has no entry")
	}
	if _, err := r.s.Register(t.Context(), r.operator, chain.Service, delegation.Registration{Name: "records", CSR: csr(t, newKey(t)), Replace: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.s.Renew(t.Context(), records, "records", csr(t, key)); code(t, err) != "registration_replaced" {
		t.Errorf("over a certificate of the registration before: %v", err)
	}
}

func TestRefusedRenewals(t *testing.T) {
	r := newRig(t)
	lab, other := r.orchestrator("lab"), r.orchestrator("other")
	task := r.task(lab)
	agent := r.spawn(lab, task)
	for name, tc := range map[string]struct {
		present identity
		want    string
	}{
		"without a certificate": {identity{}, "client_certificate_required"},
		"another orchestrator":  {other, "renewal_not_yours"},
		"an agent of its own":   {agent, "renewal_not_yours"},
	} {
		if _, err := r.renew("lab", tc.present, newKey(t)); code(t, err) != tc.want {
			t.Errorf("%s: %v, want %s", name, err, tc.want)
		}
	}
	r.revoke(chain.RevCertificate, chain.Serial(lab.certs[0]))
	if _, err := r.renew("lab", lab, newKey(t)); code(t, err) != "certificate_revoked" {
		t.Errorf("revoked: %v", err)
	}
	r.revoke(chain.RevOrchestrator, "other")
	if _, err := r.renew("other", other, newKey(t)); code(t, err) != "orchestrator_revoked" {
		t.Errorf("of a revoked orchestrator: %v", err)
	}
	late := r.orchestrator("late")
	r.clock = late.certs[0].NotAfter
	if _, err := r.renew("late", late, newKey(t)); code(t, err) != "client_certificate_expired" {
		t.Errorf("expired: %v", err)
	}
}

// However often it is renewed, no certificate outlives the age of the attestation behind it.
func TestRenewalsEndWithTheAttestation(t *testing.T) {
	r := newRig(t)
	now := r.orchestrator("lab")
	end := r.clock.Add(delegation.DefaultLimits().AttestationAge)
	for n := 0; now.certs[0].NotAfter.Before(end); n++ {
		if n > 40 {
			t.Fatal("renewed for ever")
		}
		r.clock = now.certs[0].NotAfter.Add(-time.Hour)
		next, err := r.renew("lab", now, now.key)
		if err != nil {
			t.Fatal(err)
		}
		now = next
	}
	r.clock = end.Add(-time.Minute)
	last, err := r.renew("lab", now, now.key)
	if err != nil || !last.certs[0].NotAfter.Equal(end) {
		t.Fatalf("%v, %v", last.certs, err)
	}
	// An operator who shortens the age ends what is too old by then.
	r.limits.AttestationAge = time.Hour
	r.restart()
	if _, err := r.renew("lab", last, last.key); code(t, err) != "attestation_too_old" {
		t.Error(err)
	}
}

// Revoking a certificate ends what was renewed from it: a thief with the key has renewed by then.
func TestRevocationFollowsRenewals(t *testing.T) {
	r := newRig(t)
	first := r.orchestrator("lab")
	second, err := r.renew("lab", first, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	third, err := r.renew("lab", second, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	r.revoke(chain.RevCertificate, chain.Serial(second.certs[0]))
	r.auth(first)
	for range 2 {
		if _, err := r.s.Authenticate(third.certs); code(t, err) != "certificate_revoked" {
			t.Errorf("renewed over a revoked one: %v", err)
		}
		r.restart()
	}
}

// A pod may change its key by renewing; the key before cannot take it back.
func TestAPodFollowsItsRenewals(t *testing.T) {
	r := newRig(t)
	c := r.withCluster("cluster-a")
	r.register(podRegistration("lab"))
	key := newKey(t)
	out, err := r.attestPod(c.token("pod-1"), key)
	if err != nil {
		t.Fatal(err)
	}
	first := r.identity(key, out.Chain)
	second, err := r.renew("lab", first, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.renew("lab", first, newKey(t)); code(t, err) != "pod_bound" {
		t.Errorf("the first key again, for a third: %v", err)
	}
	r.clock = r.clock.Add(time.Minute)
	if _, err := r.attestPod(c.token("pod-1"), key); code(t, err) != "pod_bound" {
		t.Errorf("the first key with a token: %v", err)
	}
	if _, err := r.renew("lab", second, second.key); err != nil {
		t.Errorf("the second key: %v", err)
	}
}

// Who takes over a name takes over nothing else: not the certificates, not the grants, not the tasks of who had it before.
func TestAReplacedRegistrationStartsAnew(t *testing.T) {
	r := newRig(t)
	before := r.orchestrator("lab")
	task := r.task(before)
	granted := r.grantFor(r.auth(before), time.Hour)
	r.approve(granted.ID)
	parentKey, spawned := newKey(t), r.request(task, newKey(t))
	q := r.request(task, parentKey)
	out, err := r.s.Spawn(t.Context(), r.auth(before), q)
	if err != nil {
		t.Fatal(err)
	}
	parent := r.identity(parentKey, out.Chain)
	old := r.register(delegation.Registration{Name: "lab", AgentTypes: []string{"research", "reader"}, Replace: true})
	reg := r.register(delegation.Registration{Name: "lab", AgentTypes: []string{"research", "reader"}, Replace: true})

	for range 2 { // the caller is known, and then not
		if _, err := r.s.Authenticate(before.certs); code(t, err) != "registration_replaced" {
			t.Errorf("the predecessor's certificate: %v", err)
		}
		r.restart()
	}
	if _, err := r.renew("lab", before, before.key); code(t, err) != "registration_replaced" {
		t.Errorf("its renewal: %v", err)
	}
	if _, err := r.s.Attest(t.Context(), delegation.Attestation{Name: "lab", Method: "join_token", Token: old.JoinToken, CSR: csr(t, newKey(t))}); code(t, err) != "join_token_unknown" {
		t.Errorf("the join token of the registration in between: %v", err)
	}
	key := newKey(t)
	issued, err := r.s.Attest(t.Context(), delegation.Attestation{Name: "lab", Method: "join_token", Token: reg.JoinToken, CSR: csr(t, key)})
	if err != nil {
		t.Fatal(err)
	}
	by := r.auth(r.identity(key, issued.Chain))
	if _, err := r.s.OpenTask(t.Context(), by, delegation.TaskRequest{GrantID: granted.ID}); code(t, err) != "grant_of_predecessor" {
		t.Errorf("the predecessor's grant: %v", err)
	}
	if _, err := r.s.Spawn(t.Context(), by, spawned); code(t, err) != "grant_of_predecessor" {
		t.Errorf("its task: %v", err)
	}
	if _, err := r.s.Spawn(t.Context(), by, q); code(t, err) != "spawn_id_used" {
		t.Errorf("its agent, by a retry: %v", err)
	}
	subKey := newKey(t)
	sub := r.request(task, subKey)
	sub.MaxDepth = 0
	doc, err := r.s.GrantDocument(task.GrantID, "https://idp.example", "physician-1")
	if err != nil {
		t.Fatal(err)
	}
	sub.Confirmation = r.jws(parent, sub, sha256.Sum256(doc), subKey)
	if _, err := r.s.Delegate(t.Context(), r.auth(parent), parent.certs[0].Subject.CommonName, sub); code(t, err) != "grant_of_predecessor" {
		t.Errorf("a sub-agent of its agent: %v", err)
	}
	// The successor works under grants of its own.
	own := r.identity(key, issued.Chain)
	r.spawn(own, r.task(own))
}

// The grant must name the orchestrator: asking for less of another's is not a grant.
func TestAnotherOrchestratorsGrantIsNoGrant(t *testing.T) {
	r := newRig(t)
	lab, other := r.orchestrator("lab"), r.orchestrator("other")
	task := r.task(lab)
	granted := r.grantFor(r.auth(lab), time.Hour)
	r.approve(granted.ID)
	by := r.auth(other)
	narrow := delegation.TaskRequest{GrantID: granted.ID, Scope: scope(t, "database:read:patients"), NotAfter: r.clock.Add(time.Minute)}
	if _, err := r.s.OpenTask(t.Context(), by, narrow); code(t, err) != "grant_not_yours" {
		t.Errorf("a narrower task: %v", err)
	}
	q := r.request(task, newKey(t))
	q.Scope, q.TTL, q.MaxDepth = scope(t, "database:read:patients"), time.Minute, 0
	if _, err := r.s.Spawn(t.Context(), by, q); code(t, err) != "task_not_yours" {
		t.Errorf("a narrower agent: %v", err)
	}
	if _, err := r.s.CompleteTask(t.Context(), by, task.ID); code(t, err) != "task_not_yours" {
		t.Errorf("its end: %v", err)
	}
	if _, err := r.s.Grant(by, granted.ID); code(t, err) != "grant_not_found" {
		t.Errorf("its text: %v", err)
	}
	// With the owner's idempotency key it is still another caller.
	idem := delegation.Idempotency{Key: "k", Hash: [32]byte{1}}
	if _, err := r.s.OpenTask(t.Context(), r.auth(lab), delegation.TaskRequest{GrantID: granted.ID, Idempotency: idem}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.s.OpenTask(t.Context(), by, delegation.TaskRequest{GrantID: granted.ID, Idempotency: idem}); code(t, err) != "grant_not_yours" {
		t.Errorf("by the owner's idempotency key: %v", err)
	}
	if r.log.last(t).Type != record.TypeDeny {
		t.Error("the refusal has no entry")
	}
}

// A thief who renewed is out for good: the revocation of the certificate outlives that certificate, as what was renewed
// over it does.
func TestARevokedLineStaysRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		first := r.orchestrator("lab")
		r.skew.Store(int64(12 * time.Hour))
		second, err := r.renew("lab", first, newKey(t))
		if err != nil {
			t.Fatal(err)
		}
		r.revoke(chain.RevCertificate, chain.Serial(first.certs[0]))
		// Past the first certificate and what its revocation is kept longer, and well within the second.
		r.skew.Store(int64(26 * time.Hour))
		stop := r.run()
		time.Sleep(2 * time.Minute) // of the bubble's clock
		synctest.Wait()
		stop()
		if _, err := r.s.Authenticate(second.certs); err == nil || code(t, err) != "certificate_revoked" {
			t.Errorf("as it runs: %v", err)
		}
		r.restart()
		if _, err := r.s.Authenticate(second.certs); err == nil || code(t, err) != "certificate_revoked" {
			t.Errorf("after a restart: %v", err)
		}
	})
}
