package delegation_test

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/workload"
)

const (
	clusterURL = "https://kubernetes.default.svc.cluster.local"
	audience   = "https://signet.example:8443"
	podAccount = "system:serviceaccount:research:lab"
)

// cluster signs tokens as a Kubernetes API server does.
type cluster struct {
	r   *rig
	key *ecdsa.PrivateKey
}

// withCluster gives the rig an issuer of that name.
func (r *rig) withCluster(name string) cluster {
	r.t.Helper()
	c := cluster{r, newKey(r.t)}
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: c.key.Public(), KeyID: "k1"}}})
	if err != nil {
		r.t.Fatal(err)
	}
	i, err := workload.NewIssuer(workload.Config{Name: name, URL: clusterURL, Audience: audience, Keys: keys, MaxLife: time.Hour, Skew: 30 * time.Second})
	if err != nil {
		r.t.Fatal(err)
	}
	all := map[string]*workload.Issuer{name: i}
	maps.Copy(all, r.workloads)
	r.workloads = all
	r.restart()
	return c
}

// token is a projected token of a pod, as it stands now.
func (c cluster) token(pod string, change ...func(map[string]any)) string {
	c.r.t.Helper()
	claims := map[string]any{
		"iss": clusterURL, "sub": podAccount, "aud": []string{audience}, "iat": c.r.clock.Unix(), "nbf": c.r.clock.Unix(),
		"exp": c.r.clock.Add(10 * time.Minute).Unix(),
		"kubernetes.io": map[string]any{
			"namespace": "research", "serviceaccount": map[string]any{"name": "lab"}, "pod": map[string]any{"uid": pod},
		},
	}
	for _, f := range change {
		f(claims)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		c.r.t.Fatal(err)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: c.key, KeyID: "k1"}}, nil)
	if err != nil {
		c.r.t.Fatal(err)
	}
	jws, err := s.Sign(payload)
	if err != nil {
		c.r.t.Fatal(err)
	}
	out, err := jws.CompactSerialize()
	if err != nil {
		c.r.t.Fatal(err)
	}
	return out
}

func (r *rig) register(q delegation.Registration) delegation.Registered {
	r.t.Helper()
	out, err := r.s.Register(r.t.Context(), r.operator, chain.Orchestrator, q)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func podRegistration(name string) delegation.Registration {
	return delegation.Registration{
		Name: name, AgentTypes: []string{"research", "reader"}, Methods: []string{"oidc_jwt"}, OIDCIssuer: "cluster-a", OIDCSubject: podAccount,
	}
}

func (r *rig) attestPod(token string, key *ecdsa.PrivateKey) (delegation.Issued, error) {
	return r.s.Attest(r.t.Context(), delegation.Attestation{Name: "lab", Method: "oidc_jwt", Token: token, CSR: csr(r.t, key)})
}

func TestPodsAttest(t *testing.T) {
	r := newRig(t)
	c := r.withCluster("cluster-a")
	if reg := r.register(podRegistration("lab")); reg.JoinToken != "" {
		t.Error("a join token for an orchestrator that may not use one")
	}
	key := newKey(t)
	out, err := r.attestPod(c.token("pod-1"), key)
	if err != nil {
		t.Fatal(err)
	}
	env := r.log.last(t)
	body, err := record.DecodeBody[record.IssueBody](env)
	if err != nil {
		t.Fatal(err)
	}
	if body.Attestation != "oidc_jwt" || body.Proof == nil || body.Proof.Pod != "pod-1" || body.Proof.Issuer != "cluster-a" || body.Registration == "" {
		t.Errorf("%+v", body)
	}
	// The envelope stays when the payload is erased: it names no issuer and no subject.
	last := r.log.entries[len(r.log.entries)-1]
	if bytes.Contains(last.Envelope, []byte(podAccount)) || bytes.Contains(last.Envelope, []byte(clusterURL)) {
		t.Error("iss or sub in the envelope")
	}
	if !bytes.Contains(last.Payload, []byte(podAccount)) || !bytes.Contains(last.Payload, []byte(clusterURL)) {
		t.Error("no iss or sub in the payload")
	}
	// It works like any other orchestrator, and policy is told how it attested.
	orch := r.identity(key, out.Chain)
	r.spawn(orch, r.task(orch))
	if got := r.rules.seen.Orchestrator.Attestation; got != "oidc_jwt" {
		t.Errorf("policy saw %q", got)
	}
}

// A token serves one key, and so does a pod while its certificate is valid.
func TestStolenTokensAreWorthless(t *testing.T) {
	r := newRig(t)
	c := r.withCluster("cluster-a")
	r.register(podRegistration("lab"))
	own, thief := newKey(t), newKey(t)
	first := c.token("pod-1")
	issued, err := r.attestPod(first, own)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.attestPod(first, own); err != nil {
		t.Errorf("a retry with the same key: %v", err)
	}
	if _, err := r.attestPod(first, thief); code(t, err) != "token_replayed" {
		t.Errorf("the token with another key: %v", err)
	}
	r.clock = r.clock.Add(time.Minute)
	fresh := c.token("pod-1")
	if _, err := r.attestPod(fresh, thief); code(t, err) != "pod_bound" {
		t.Errorf("a fresh token of the pod with another key: %v", err)
	}
	if _, err := r.attestPod(c.token("pod-2"), newKey(t)); err != nil {
		t.Errorf("another pod: %v", err)
	}
	if _, err := r.attestPod(fresh, own); err != nil {
		t.Errorf("a fresh token with the pod's own key: %v", err)
	}
	// A pod that lost its key waits, or an operator revokes its certificate.
	newest := r.identity(own, issued.Chain)
	r.revoke(chain.RevCertificate, chain.Serial(newest.certs[0]))
	r.clock = r.clock.Add(time.Minute)
	if _, err := r.attestPod(c.token("pod-1"), newKey(t)); code(t, err) != "pod_bound" {
		t.Errorf("an older certificate of the pod was revoked: %v", err)
	}
	r.clock = r.clock.Add(25 * time.Hour)
	if _, err := r.attestPod(c.token("pod-1"), newKey(t)); err != nil {
		t.Errorf("after the certificate's end: %v", err)
	}
}

func TestARevokedCertificateFreesItsPod(t *testing.T) {
	r := newRig(t)
	c := r.withCluster("cluster-a")
	r.register(podRegistration("lab"))
	key := newKey(t)
	issued, err := r.attestPod(c.token("pod-1"), key)
	if err != nil {
		t.Fatal(err)
	}
	r.revoke(chain.RevCertificate, chain.Serial(r.identity(key, issued.Chain).certs[0]))
	r.clock = r.clock.Add(time.Minute)
	if _, err := r.attestPod(c.token("pod-1"), newKey(t)); err != nil {
		t.Error(err)
	}
}

// Of many keys that come at once with one token, one gets a certificate.
func TestATokenIsRacedForInVain(t *testing.T) {
	r := newRig(t)
	c := r.withCluster("cluster-a")
	r.register(podRegistration("lab"))
	// The first attestation writes the registration: it is not what is raced for here.
	if _, err := r.attestPod(c.token("pod-0"), newKey(t)); err != nil {
		t.Fatal(err)
	}
	token := c.token("pod-1")
	var wg sync.WaitGroup
	errs := make([]error, 10)
	for i := range errs {
		key := newKey(t)
		wg.Go(func() { _, errs[i] = r.attestPod(token, key) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if got := code(t, err); got != "token_replayed" {
			t.Errorf("code %s", got)
		}
	}
	if won != 1 {
		t.Errorf("%d of 10 keys got a certificate", won)
	}
}

// Each refusal has its own code and an entry, and issues nothing.
func TestRefusedTokensAttestNobody(t *testing.T) {
	r := newRig(t)
	c := r.withCluster("cluster-a")
	twin := r.withCluster("cluster-b") // the same URL, as clusters have it by default, and the same kid
	r.register(podRegistration("lab"))
	r.register(delegation.Registration{Name: "joined"})
	set := func(name string, value any) func(map[string]any) { return func(m map[string]any) { m[name] = value } }
	for name, tc := range map[string]struct {
		a    delegation.Attestation
		want string
	}{
		"another cluster of that URL": {delegation.Attestation{Name: "lab", Token: twin.token("p")}, "token_signature"},
		"another account":             {delegation.Attestation{Name: "lab", Token: c.token("p", set("sub", "system:serviceaccount:research:other"), set("kubernetes.io", map[string]any{"namespace": "research", "serviceaccount": map[string]any{"name": "other"}, "pod": map[string]any{"uid": "p"}}))}, "token_subject"},
		"another audience":            {delegation.Attestation{Name: "lab", Token: c.token("p", set("aud", "https://kubernetes.default.svc"))}, "token_audience"},
		"expired":                     {delegation.Attestation{Name: "lab", Token: c.token("p", set("iat", r.clock.Add(-time.Hour).Unix()), set("exp", r.clock.Add(-time.Minute).Unix()))}, "token_expired"},
		"for a year":                  {delegation.Attestation{Name: "lab", Token: c.token("p", set("exp", r.clock.Add(365*24*time.Hour).Unix()))}, "token_life"},
		"over-long":                   {delegation.Attestation{Name: "lab", Token: c.token("p", set("x", strings.Repeat("x", 9000)))}, "token_too_long"},
		"without a pod":               {delegation.Attestation{Name: "lab", Token: c.token("")}, "token_pod_missing"},
		"none":                        {delegation.Attestation{Name: "lab"}, "token_malformed"},
		"without the method":          {delegation.Attestation{Name: "joined", Token: c.token("p")}, "attestation_not_allowed"},
		"for an unknown name":         {delegation.Attestation{Name: "nobody", Token: c.token("p")}, "attestation_failed"},
	} {
		t.Run(name, func(t *testing.T) {
			issues, refusals := r.log.count(record.TypeIssue), r.log.count(record.TypeMalformed)
			tc.a.Method, tc.a.CSR = "oidc_jwt", csr(t, newKey(t))
			_, err := r.s.Attest(t.Context(), tc.a)
			if code(t, err) != tc.want {
				t.Errorf("%v, want %s", err, tc.want)
			}
			var e *delegation.Error
			if r.log.count(record.TypeIssue) != issues || r.log.count(record.TypeMalformed) != refusals+1 || !errors.As(err, &e) || e.AuditIndex == nil {
				t.Error("something was issued, or the refusal has no entry")
			}
		})
	}
	if _, err := r.s.Attest(t.Context(), delegation.Attestation{Name: "lab", Method: "join_token", Token: "x"}); code(t, err) != "attestation_not_allowed" {
		t.Errorf("a join token for who may not use one: %v", err)
	}
}

func TestRefusedRegistrationsOfMethods(t *testing.T) {
	r := newRig(t)
	r.withCluster("cluster-a")
	for name, tc := range map[string]struct {
		q     delegation.Registration
		field string
	}{
		"unknown method":         {delegation.Registration{Methods: []string{"password"}}, "methods"},
		"renewal as a method":    {delegation.Registration{Methods: []string{"renew"}}, "methods"},
		"a method twice":         {delegation.Registration{Methods: []string{"join_token", "join_token"}}, "methods"},
		"x509pop without roots":  {delegation.Registration{Methods: []string{"x509pop"}}, "x509pop_roots"},
		"oidc without a subject": {delegation.Registration{Methods: []string{"oidc_jwt"}}, "oidc_subject"},
		"issuer not configured":  {delegation.Registration{OIDCIssuer: clusterURL, OIDCSubject: podAccount}, "oidc_issuer"},
		"issuer without subject": {delegation.Registration{OIDCIssuer: "cluster-a"}, "oidc_subject"},
		"a pattern":              {delegation.Registration{OIDCIssuer: "cluster-a", OIDCSubject: "system:serviceaccount:research:*"}, "oidc_subject"},
		"what no method uses":    {delegation.Registration{Methods: []string{"join_token"}, OIDCIssuer: "cluster-a", OIDCSubject: podAccount}, "oidc_subject"},
		"TPMs without makers":    {delegation.Registration{EKs: []string{strings.Repeat("ab", 32)}}, "tpm_eks"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.q.Name = "lab"
			_, err := r.s.Register(t.Context(), r.operator, chain.Orchestrator, tc.q)
			var e *delegation.Error
			if !errors.As(err, &e) || e.Field != tc.field || e.Kind != delegation.Invalid {
				t.Errorf("%v, want a refusal of %s", err, tc.field)
			}
		})
	}
}
