package delegation_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/policy"
)

// Each is Scan; this log forgets when its keys expire.
func (l *memoryLog) Each(_ context.Context, prefix string, fn func(string, []byte, time.Time) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var keys []string
	for k := range l.state {
		if strings.HasPrefix(k, prefix) {
			keys = append(keys, k)
		}
	}
	sort.Strings(keys)
	for _, k := range keys {
		value := l.state[k]
		l.mu.Unlock()
		err := fn(k, value, time.Time{})
		l.mu.Lock()
		if err != nil {
			return err
		}
	}
	return nil
}

// carried is the log that succeeds this one. The end of a test holds its state to its entries, as everywhere.
func (r *rig) carried() *memoryLog {
	r.t.Helper()
	if found := r.replay(); len(found) > 0 {
		r.t.Fatal(found)
	}
	entries, err := delegation.Carry(r.t.Context(), r.log, delegation.Succession{
		Epochs: 1, Issuers: []*x509.Certificate{r.certifier.services.Certificate()}, Pseudonym: pseudonym, Now: r.now(), Rand: rand.Reader,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	next := &memoryLog{state: map[string][]byte{}}
	for _, e := range entries {
		if e.Envelope == nil {
			err = next.Put(r.t.Context(), e.Mutations)
		} else {
			_, err = next.Append(r.t.Context(), e)
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
	return next
}

func TestCarry(t *testing.T) {
	r := newRig(t)
	stop := r.run()
	orch, records := r.orchestrator("lab"), r.service("records")
	task := r.task(orch)
	agent := r.spawn(orch, task)
	ended := r.task(orch)
	if _, err := r.s.CompleteTask(t.Context(), r.auth(orch), ended.ID); err != nil {
		t.Fatal(err)
	}
	r.revoke(chain.RevUser, chain.UserID("https://idp.example", "clerk"))
	user := chain.User{Issuer: "https://idp.example", Subject: "physician-1"}
	if err := r.s.RegisterCredential(t.Context(), r.signIn(user), delegation.Credential{ID: []byte("key"), PublicKey: []byte("cose")}); err != nil {
		t.Fatal(err)
	}
	had := r.list()
	stop() // and with it what certificates wait for

	r.log = r.carried()
	r.restart()
	for what, certs := range map[string][]*x509.Certificate{"the operator": r.operator.Certs, "a service": records.Certs} {
		if _, err := r.s.Authenticate(certs); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for code, certs := range map[string][]*x509.Certificate{"certificate_revoked": orch.certs, "grant_revoked": agent.certs} {
		if _, err := r.s.Authenticate(certs); delegation.AsError(err).Code != code {
			t.Errorf("%v, want %s", err, code)
		}
	}
	now := r.list()
	if len(now) != len(had)+3 {
		t.Errorf("%d revocations, and %d before: both grants end, and the orchestrator's certificate", len(now), len(had))
	}
	for i, v := range had {
		if now[i].Kind != v.Kind || now[i].ID != v.ID || now[i].Reason != v.Reason || !now[i].Expires.Equal(v.Expires) || now[i].Seq != uint64(i)+1 {
			t.Errorf("revocation %d was %+v, is %+v", i, v, now[i])
		}
	}
	if page := r.s.Revocations(delegation.Cursor{}, 1); page.Next.Epoch != 2 {
		t.Errorf("epoch %d", page.Next.Epoch)
	}
	if c, err := r.s.Credentials(t.Context(), user); err != nil || len(c) != 1 || string(c[0].ID) != "key" {
		t.Errorf("credentials %v, %v", c, err)
	}
	for key := range r.log.state {
		for _, begun := range []string{"grant/", "task/", "agent/", "join/", "idem/", "open/", "slot/", "spki/", "policy/candidate/"} {
			if strings.HasPrefix(key, begun) {
				t.Errorf("%s was carried", key)
			}
		}
	}
	// The orchestrator proves itself again, under the same registration otherwise.
	if _, err := r.s.Register(t.Context(), r.operator, chain.Orchestrator, delegation.Registration{Name: "lab"}); delegation.AsError(err).Code != "already_registered" {
		t.Errorf("the name is free: %v", err)
	}
	// Revocations go on behind those that were carried.
	r.revoke(chain.RevOrchestrator, "lab")
	if v := r.list(); v[len(v)-1].Seq <= now[len(now)-1].Seq {
		t.Errorf("number %d after %d", v[len(v)-1].Seq, now[len(now)-1].Seq)
	}
}

// A certificate that was revoked, or renewed over one that was, is not carried; nor is the registration that has none else.
func TestCarryLeavesOutRevoked(t *testing.T) {
	r := newRig(t)
	stop := r.run()
	records, trials := r.service("records"), r.service("trials")
	stop()
	r.revoke(chain.RevCertificate, chain.Serial(records.Certs[0]))
	r.log = r.carried()
	r.restart()
	if _, err := r.s.Authenticate(records.Certs); delegation.AsError(err).Code != "certificate_revoked" {
		t.Errorf("revoked: %v", err)
	}
	if _, ok := r.log.state["id/service/records"]; ok {
		t.Error("the registration of a service without a certificate was carried")
	}
	if _, err := r.s.Authenticate(trials.Certs); err != nil {
		t.Errorf("the other: %v", err)
	}
	if n := r.log.count(record.TypeIssue); n != 2 {
		t.Errorf("%d certificates, of the operator and one service", n)
	}
}

// What decided goes on to decide.
func TestCarryPolicy(t *testing.T) {
	s := newShop(t)
	stop := s.run()
	active := s.makeActive(3, "true")
	was, err := s.s.PolicyArchive(active.Digest)
	if err != nil || was == nil {
		t.Fatal(err)
	}
	stop()
	s.log = s.carried()
	s.reopen()
	if archive, err := s.s.PolicyArchive(active.Digest); err != nil || !bytes.Equal(archive, was) {
		t.Errorf("archive of %d bytes, %v", len(archive), err)
	}
	if got := s.decides(); got.Digest != active.Digest || !got.Allow {
		t.Errorf("%+v decides", got)
	}
	_, err = s.s.PushBundle(t.Context(), s.alice, "older", s.signed(2, "true"))
	s.refused(policy.BundleDowngrade, err)
}
