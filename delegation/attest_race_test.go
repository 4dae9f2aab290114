package delegation_test

import (
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// meanwhile does something when the next certificate's entry is on its way: after all checks, before the commit.
func (l *hookLog) meanwhile(t *testing.T, f func()) {
	l.beforeAppend = func(e record.Entry) {
		if typeOf(t, e) == record.TypeIssue {
			l.beforeAppend = nil
			f()
		}
	}
}

// What was checked is asked again at the commit: whoever comes second has lost.
func TestAttestationsThatAreOvertaken(t *testing.T) {
	r := newRig(t)
	c := r.withCluster("cluster-a")
	r.register(podRegistration("lab"))
	if _, err := r.attestPod(c.token("pod-0"), newKey(t)); err != nil {
		t.Fatal(err)
	}
	log := r.hooked()
	another := func(token string) func() {
		return func() {
			if _, err := r.attestPod(token, newKey(t)); err != nil {
				t.Error(err)
			}
		}
	}
	token := c.token("pod-1")
	log.meanwhile(t, another(token))
	if _, err := r.attestPod(token, newKey(t)); code(t, err) != "token_replayed" {
		t.Errorf("by the same token: %v", err)
	}
	first := c.token("pod-2")
	r.clock = r.clock.Add(time.Second)
	log.meanwhile(t, another(first))
	if _, err := r.attestPod(c.token("pod-2"), newKey(t)); code(t, err) != "pod_bound" {
		t.Errorf("by another token of the pod: %v", err)
	}
	log.meanwhile(t, func() { r.revoke(chain.RevOrchestrator, "lab") })
	if _, err := r.attestPod(c.token("pod-3"), newKey(t)); code(t, err) != "orchestrator_revoked" {
		t.Errorf("by a revocation: %v", err)
	}
}

func TestARegistrationReplacedMeanwhile(t *testing.T) {
	r := newRig(t)
	c := r.withCluster("cluster-a")
	r.register(podRegistration("lab"))
	key := newKey(t)
	out, err := r.attestPod(c.token("pod-0"), key)
	if err != nil {
		t.Fatal(err)
	}
	present := r.identity(key, out.Chain)
	log := r.hooked()
	again := podRegistration("lab")
	again.Replace = true
	replaced := func() { r.register(again) }
	log.meanwhile(t, replaced)
	if _, err := r.renew("lab", present, key); code(t, err) != "registration_changed" {
		t.Errorf("renewal: %v", err)
	}
	log.meanwhile(t, replaced)
	if _, err := r.attestPod(c.token("pod-1"), newKey(t)); code(t, err) != "registration_changed" {
		t.Errorf("attestation: %v", err)
	}
}

func TestARenewalRevokedMeanwhile(t *testing.T) {
	for want, what := range map[string]func(r *rig, present identity){
		"certificate_revoked":  func(r *rig, present identity) { r.revoke(chain.RevCertificate, chain.Serial(present.certs[0])) },
		"orchestrator_revoked": func(r *rig, _ identity) { r.revoke(chain.RevOrchestrator, "lab") },
	} {
		t.Run(want, func(t *testing.T) {
			r := newRig(t)
			present := r.orchestrator("lab")
			r.hooked().meanwhile(t, func() { what(r, present) })
			if _, err := r.renew("lab", present, newKey(t)); code(t, err) != want {
				t.Error(err)
			}
		})
	}
}

// A signature that fails costs neither the token nor the pod.
func TestPodsRecoverFromAFailedSignature(t *testing.T) {
	r := newRig(t)
	c := r.withCluster("cluster-a")
	r.register(podRegistration("lab"))
	token, key := c.token("pod-1"), newKey(t)
	r.certifier.failing = true
	if _, err := r.attestPod(token, key); code(t, err) != "signing_failed" {
		t.Fatal(err)
	}
	r.certifier.failing = false
	out, err := r.attestPod(token, key)
	if err != nil {
		t.Fatal(err)
	}
	present := r.identity(key, out.Chain)
	r.certifier.failing = true
	next := newKey(t)
	if _, err := r.renew("lab", present, next); code(t, err) != "signing_failed" {
		t.Fatal(err)
	}
	r.certifier.failing = false
	if _, err := r.renew("lab", present, next); err != nil {
		t.Errorf("the same renewal again: %v", err)
	}
}
