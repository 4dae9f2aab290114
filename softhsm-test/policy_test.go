package softhsmtest

import (
	"archive/tar"
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/internal/testrig/policybundle"
	"github.com/signet-pki/signet/policy"
)

// security is who changes the policy of an appliance.
type security struct {
	*cast
	officer *person
	key     crypto.Signer
}

func newSecurity(c *cast, dir string) *security {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "policy.key"))
	must(c.t, err)
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	must(c.t, err)
	signer, ok := key.(crypto.Signer)
	if !ok {
		c.t.Fatal("policy.key signs nothing")
	}
	officer := c.named("officer", func(name, csr string) (v1.Certificate, error) {
		return c.operator.RegisterOperator(c.t.Context(), v1.OperatorRegistration{Name: name, Role: "security_officer", CSR: csr})
	})
	return &security{c, officer, signer}
}

// large is a bundle that takes several parts of the store, and more than one transaction.
func large(revision uint64, clause string) policybundle.Bundle {
	return policybundle.New(revision, clause).With("signet/large/data.json", `{"text":"`+strings.Repeat("x", 2<<20)+`"}`)
}

func (s *security) push(b policybundle.Bundle) v1.PolicyBundle {
	s.t.Helper()
	out, err := s.operator.PushPolicyBundle(s.t.Context(), "main", b.Sign(s.t, "dev", s.key, jose.ES256).Archive(s.t))
	must(s.t, err)
	return out
}

// makeActive takes a bundle all the way.
func (s *security) makeActive(bundle policybundle.Bundle) string {
	s.t.Helper()
	b := s.push(bundle)
	_, err := s.operator.ApprovePolicyBundle(s.t.Context(), "main", b.Digest)
	must(s.t, err)
	_, err = s.operator.ApprovePolicyBundle(s.t.Context(), "main", b.Digest)
	must(s.t, refusedWith(err, policy.BundleSecondPerson))
	out, err := s.officer.ApprovePolicyBundle(s.t.Context(), "main", b.Digest)
	must(s.t, err)
	if out.Status != v1.BundleActive || len(out.Approvals) != 2 || out.AuditReceipt == nil {
		s.t.Fatalf("%+v", out)
	}
	return b.Digest
}

// answered wants the agent's access to be allowed, or denied for this reason.
func (s *security) answered(a *agent, reason string) (entry uint64) {
	s.t.Helper()
	d, err := decide(s.t.Context(), s.service, a)
	must(s.t, err)
	if d.Decision != (reason == "") || reason != "" && !slices.Equal(d.Context.Reasons, []string{reason}) {
		s.t.Errorf("%v %v, want %q", d.Decision, d.Context.Reasons, reason)
	}
	return *d.Context.AuditID
}

// TestPolicyBundles: a bundle comes signed, takes effect when two people approved it, survives a restart, and is in the
// evidence with its signature.
func TestPolicyBundles(t *testing.T) {
	dir := newDir(t)
	d := start(t, dir)
	c := newCast(t, dir, d.url)
	s := newSecurity(c, dir)
	_, task := c.task(c.orchestrator)
	a, err := spawn(t.Context(), c.orchestrator, task)
	must(t, err)
	s.answered(a, "")
	shipped, err := c.auditor.PolicyBundle(t.Context(), "default")
	must(t, err)

	_, err = c.operator.PushPolicyBundle(t.Context(), "main", policybundle.New(1, "true").Archive(t))
	must(t, refusedWith(err, policy.BundleUnsigned))
	_, err = c.operator.PushPolicyBundle(t.Context(), "main", make([]byte, 16<<20+1))
	must(t, refusedWith(err, "body_too_large"))
	_, err = c.auditor.PushPolicyBundle(t.Context(), "main", policybundle.New(1, "true").Archive(t))
	must(t, refusedWith(err, "role_not_allowed"))
	first := s.makeActive(large(1, `input.point == "spawn"`))
	s.answered(a, policy.ReasonDenied)

	s.push(large(2, "true")) // a candidate survives as well
	d.stop()
	d = start(t, dir)
	c = c.moved(d.url)
	s = &security{c, c.person(s.officer.cert), s.key}
	s.answered(a, policy.ReasonDenied)
	all, err := c.auditor.PolicyBundles(t.Context())
	must(t, err)
	if len(all.Bundles) != 2 || all.Bundles[0].Digest != first || all.Bundles[1].Status != v1.BundleCandidate {
		t.Fatalf("%+v", all)
	}
	tested, err := s.officer.TestPolicyBundle(t.Context(), "main")
	must(t, err)
	if !tested.Passed || tested.Digest != all.Bundles[1].Digest || len(tested.Tests) != 1 {
		t.Errorf("%+v", tested)
	}
	second := s.makeActive(large(3, "true"))
	_, err = c.auditor.Receipt(t.Context(), s.answered(a, ""), true) // what is exported is sealed
	must(t, err)

	held := c.policies(filepath.Join(t.TempDir(), "evidence.tar"))
	for _, digest := range []string{shipped.Digest, first, second} {
		if !slices.Contains(held, digest) {
			t.Errorf("the evidence has %v, not %s", held, digest)
		}
	}
	d.stop()
	fsck(t, dir)
}

// policies exports the evidence, has it verified, and gives the digests of the policy bundles in it.
func (c *cast) policies(path string) []string {
	c.t.Helper()
	f, err := os.Create(path)
	must(c.t, err)
	must(c.t, errors.Join(c.auditor.Export(c.t.Context(), f), f.Close()))
	succeed(c.t, program("signet-verify"), "bundle", path)
	data, err := os.ReadFile(path)
	must(c.t, err)
	var out []string
	for in := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		must(c.t, err)
		if digest, ok := strings.CutSuffix(filepath.Base(h.Name), ".tar.gz"); ok {
			out = append(out, digest)
		}
	}
}
