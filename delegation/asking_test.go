package delegation_test

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// All that a request names is recorded with it, so it is bounded: what no entry could hold would be denied without one.
func TestWhatARequestNamesIsBounded(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	agent := r.spawn(orch, r.task(orch))
	records := r.service("records")
	ask := func(change func(*delegation.DecisionRequest)) (delegation.Decision, error) {
		q := delegation.DecisionRequest{Chain: agent.certs, ResourceType: "database", ResourceID: "patients", Action: "read"}
		change(&q)
		return r.s.Decide(t.Context(), records, q)
	}
	type change = func(*delegation.DecisionRequest, string)
	for name, c := range map[string]struct {
		field string
		most  int
		set   change
	}{
		"type":         {"resource", 256, func(q *delegation.DecisionRequest, s string) { q.ResourceType = s }},
		"id":           {"resource", 256, func(q *delegation.DecisionRequest, s string) { q.ResourceID = s }},
		"action":       {"action", 256, func(q *delegation.DecisionRequest, s string) { q.Action = s }},
		"subject":      {"subject", 2048, func(q *delegation.DecisionRequest, s string) { q.SubjectID = s }},
		"orchestrator": {"expected_orchestrator", 2048, func(q *delegation.DecisionRequest, s string) { q.Orchestrator = s }},
		"issuer":       {"expected_user", chain.MaxIssuerBytes, func(q *delegation.DecisionRequest, s string) { q.Principal = &chain.User{Issuer: s} }},
		"user":         {"expected_user", chain.MaxSubjectBytes, func(q *delegation.DecisionRequest, s string) { q.Principal = &chain.User{Subject: s} }},
	} {
		// Each of these takes six bytes in JSON.
		d, err := ask(func(q *delegation.DecisionRequest) { c.set(q, strings.Repeat("<", c.most)) })
		if err != nil || d.Allow || d.Position == nil {
			t.Errorf("%s, as long as can be: %+v %v", name, d, err)
		}
		_, err = ask(func(q *delegation.DecisionRequest) { c.set(q, strings.Repeat("<", c.most+1)) })
		if e := delegation.AsError(err); e.Code != "bad_request" || e.Field != c.field || e.AuditIndex == nil {
			t.Errorf("%s, longer: %v", name, err)
		}
	}
}

// fat is a certificate of that size, at least, that leads nowhere.
func fat(t *testing.T, size int) *x509.Certificate {
	t.Helper()
	key := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: make([]byte, size)}},
	}, &x509.Certificate{SerialNumber: big.NewInt(1)}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// A chain beyond its bounds is refused whether or not its leaf was seen before: it would be recorded with each decision.
func TestALongChainIsRefusedEachTime(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	for name, id := range map[string]identity{"orchestrator": orch, "agent": r.spawn(orch, r.task(orch))} {
		long := slices.Concat(id.certs, slices.Repeat(id.certs[1:], chain.MaxChain-1))
		large := append(slices.Clone(id.certs), fat(t, chain.MaxCertificateBytes))
		r.restart()
		for _, seen := range []bool{false, true} {
			for _, certs := range [][]*x509.Certificate{long, large} {
				if _, err := r.s.Authenticate(certs); code(t, err) != "client_certificate_untrusted" {
					t.Errorf("%s, seen %v, %d certificates: %v", name, seen, len(certs), err)
				}
			}
			r.auth(id)
		}
	}
}

// contextLog shows the context of each append.
type contextLog struct {
	*memoryLog
	see func(context.Context)
}

func (l contextLog) Append(ctx context.Context, e record.Entry) (delegation.Position, error) {
	l.see(ctx)
	if err := ctx.Err(); err != nil {
		return delegation.Position{}, err
	}
	return l.memoryLog.Append(ctx, e)
}

// A caller that hangs up does not undo the entry. The time that its request may take still bounds it.
func TestADecisionIsRecordedForWhoHungUp(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	agent := r.spawn(orch, r.task(orch))
	records := r.service("records")
	until := time.Now().Add(time.Hour)
	ctx, hangUp := context.WithDeadline(t.Context(), until)
	r.start(contextLog{r.log, func(ctx context.Context) {
		hangUp()
		if at, ok := ctx.Deadline(); !ok || !at.Equal(until) {
			t.Errorf("until %s, want %s", at, until)
		}
	}})
	before := r.log.count(record.TypeDecision)
	d, err := r.s.Decide(ctx, records, delegation.DecisionRequest{Chain: agent.certs, ResourceType: "database", ResourceID: "patients", Action: "read"})
	if err != nil || d.Position == nil || r.log.count(record.TypeDecision) != before+1 {
		t.Errorf("%+v %v, %d entries", d, err, r.log.count(record.TypeDecision)-before)
	}
}

// What nobody trusted has signed names nobody: not in the envelope, and not in the index. What was shown stands in the payload.
func TestAForeignChainNamesNobody(t *testing.T) {
	r, other := newRig(t), newRig(t)
	orch := other.orchestrator("lab")
	agent := other.spawn(orch, other.task(orch))
	r.orchestrator("lab")
	d := r.decide(r.service("records"), agent)
	env, body, payload := newest[record.DecisionBody, record.DecisionPayload](t, r.log)
	if d.Allow || !slices.Contains(body.Reasons, chain.CodePathUntrusted) || len(payload.Chain) != len(agent.certs) || env.Service != "records" || body.TBSHash == "" {
		t.Fatalf("%+v %+v", env, body)
	}
	if env.Orchestrator+env.Agent+env.Task+env.Grant+env.User != "" || body.Hops != nil {
		t.Errorf("%+v names %v", env, body.Hops)
	}
	terms := r.log.entries[len(r.log.entries)-1].Terms
	if len(terms) != 1 || terms[0].Kind != "decision" {
		t.Errorf("found by %+v", terms)
	}
}
