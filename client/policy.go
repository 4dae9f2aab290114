package client

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"

	v1 "github.com/signet-pki/signet/api/v1"
)

func bundlePath(name string) string { return "/v1/policy/bundles/" + url.PathEscape(name) }

// PushPolicyBundle uploads a signed policy bundle, a .tar.gz as OPA makes it, as the candidate of that name; an operator's
// or a security officer's act.
func (c *Client) PushPolicyBundle(ctx context.Context, name string, archive []byte) (v1.PolicyBundle, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, c.base+bundlePath(name), bytes.NewReader(archive))
	if err != nil {
		return v1.PolicyBundle{}, fmt.Errorf("client: %w", err)
	}
	req.Header.Set("Content-Type", v1.MediaBundle)
	return decode[v1.PolicyBundle](c, req)
}

// PolicyBundles lists the active policy bundle and the candidates.
func (c *Client) PolicyBundles(ctx context.Context) (v1.PolicyBundles, error) {
	return get[v1.PolicyBundles](ctx, c, "/v1/policy/bundles")
}

// PolicyBundle shows a candidate, or the active bundle by its name.
func (c *Client) PolicyBundle(ctx context.Context, name string) (v1.PolicyBundle, error) {
	return get[v1.PolicyBundle](ctx, c, bundlePath(name))
}

// TestPolicyBundle has a candidate compiled and its own tests run again.
func (c *Client) TestPolicyBundle(ctx context.Context, name string) (v1.PolicyTestReport, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+bundlePath(name)+"/test", nil)
	if err != nil {
		return v1.PolicyTestReport{}, fmt.Errorf("client: %w", err)
	}
	return decode[v1.PolicyTestReport](c, req)
}

// ApprovePolicyBundle approves exactly this digest. The second person's approval makes the bundle active.
func (c *Client) ApprovePolicyBundle(ctx context.Context, name, digest string) (v1.PolicyBundle, error) {
	return post[v1.PolicyBundle](ctx, c, bundlePath(name)+"/approvals", v1.PolicyApprovalRequest{Digest: digest}, nil)
}
