package api

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/policy"
)

// maxBundleBody bounds an uploaded policy bundle.
const maxBundleBody = 16 << 20

func policyRoutes() []route {
	return []route{
		give("pushPolicyBundle", http.MethodPut, "/v1/policy/bundles/{name}", operator|officer,
			"Upload a signed policy bundle (tar.gz) as a candidate: it is verified, compiled and tested", (*Server).pushBundle).
			with(func(r *route) { r.upload, r.maxBody = v1.MediaBundle, maxBundleBody }),
		give("listPolicyBundles", http.MethodGet, "/v1/policy/bundles", staff,
			"The active policy bundle, and the candidates", (*Server).listBundles),
		give("readPolicyBundle", http.MethodGet, "/v1/policy/bundles/{name}", staff,
			"A candidate, or the active bundle by its name", (*Server).readBundle),
		give("testPolicyBundle", http.MethodPost, "/v1/policy/bundles/{name}/test", operator|officer,
			"Compile a candidate again and run its own tests", (*Server).testBundle).
			with(func(r *route) { r.heavy = true }),
		take("approvePolicyBundle", "/v1/policy/bundles/{name}/approvals", operator|officer, http.StatusOK,
			"Approve exactly this digest of a candidate; the second person's approval makes it active", (*Server).approveBundle).
			with(func(r *route) { r.heavy = true }),
	}
}

func (s *Server) pushBundle(c *call) (v1.PolicyBundle, error) {
	archive, err := s.upload(c)
	if err != nil {
		return v1.PolicyBundle{}, err
	}
	out, err := s.cfg.Domain.PushBundle(c.ctx, c.by, c.param("name"), archive)
	return s.bundleView(out), err
}

// upload takes a body that is no JSON.
func (s *Server) upload(c *call) ([]byte, error) {
	h := c.echo.Request().Header
	if h.Get("Content-Encoding") != "" {
		return nil, invalid(codeContentEncoding, "Content-Encoding", "bodies are not compressed beside what they are")
	}
	name, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || name != c.route.upload || len(params) > 0 {
		return nil, invalid(codeMediaType, "Content-Type", c.route.upload)
	}
	return s.body(c)
}

func (s *Server) listBundles(c *call) (v1.PolicyBundles, error) {
	all, err := s.cfg.Domain.Bundles(c.ctx)
	out := v1.PolicyBundles{Bundles: make([]v1.PolicyBundle, len(all))}
	for i, b := range all {
		out.Bundles[i] = s.bundleView(b)
	}
	return out, err
}

func (s *Server) readBundle(c *call) (v1.PolicyBundle, error) {
	out, err := s.cfg.Domain.Bundle(c.ctx, c.param("name"))
	return s.bundleView(out), err
}

func (s *Server) testBundle(c *call) (v1.PolicyTestReport, error) {
	if err := noBody(c); err != nil {
		return v1.PolicyTestReport{}, err
	}
	out, err := s.cfg.Domain.TestBundle(c.ctx, c.by, c.param("name"))
	return v1.PolicyTestReport{Digest: out.Digest, Passed: out.Passed, Tests: wireTests(out.Tests)}, err
}

// noBody refuses what would be ignored.
func noBody(c *call) error {
	var b [1]byte
	if _, err := io.ReadFull(c.echo.Request().Body, b[:]); !errors.Is(err, io.EOF) {
		return invalid(codeBadRequest, "", "this request has no body")
	}
	return nil
}

func (s *Server) approveBundle(c *call, q *v1.PolicyApprovalRequest) (v1.PolicyBundle, error) {
	if q.Digest == "" {
		return v1.PolicyBundle{}, invalid(codeBadRequest, "digest", "the digest that is approved")
	}
	out, err := s.cfg.Domain.ApproveBundle(c.ctx, c.by, c.param("name"), q.Digest)
	return s.bundleView(out), err
}

func (s *Server) bundleView(b delegation.BundleStatus) v1.PolicyBundle {
	out := v1.PolicyBundle{
		Name: b.Name, Digest: b.Digest, Revision: b.Revision, Status: v1.BundleCandidate, KeyID: b.KeyID, KeyHash: b.KeyHash, Size: b.Size, By: b.By,
		Since: stated(b.Since), Approvals: make([]v1.PolicyApproval, len(b.Approvals)), AuditReceipt: s.receipt(b.Position),
	}
	if b.Active {
		out.Status = v1.BundleActive
	}
	for i, a := range b.Approvals {
		out.Approvals[i] = v1.PolicyApproval{Operator: a.Operator, Time: wireTime(a.Time), Expires: stated(a.Expires)}
	}
	if len(b.Tests) > 0 {
		out.Tests = wireTests(b.Tests)
	}
	return out
}

func stated(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return wireTime(t)
}

func wireTests(results []policy.TestResult) []v1.PolicyTest {
	out := make([]v1.PolicyTest, len(results))
	for i, r := range results {
		out[i] = v1.PolicyTest{Name: r.Name, Passed: r.Passed, Detail: r.Detail}
	}
	return out
}
