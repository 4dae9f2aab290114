package api

import (
	"bytes"
	"testing"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/policy"
)

// A bundle is a body that is no JSON: its type is exact, its size bounded, and what is refused has an entry.
func TestUploadOfABundle(t *testing.T) {
	w := newWorld(t)
	const path = "/v1/policy/bundles/main"
	gz := []string{"Content-Type", v1.MediaBundle}
	w.refused(w.do(operator, "PUT", path, "x"), 415, codeMediaType)
	w.refused(w.do(operator, "PUT", path, "x", "Content-Type", v1.MediaBundle+"; charset=utf-8"), 415, codeMediaType)
	w.refused(w.do(operator, "PUT", path, "x", append(gz, "Content-Encoding", "gzip")...), 415, codeContentEncoding)
	w.refused(w.do(operator, "PUT", path, nil, gz...), 400, codeBodyMissing)
	w.refused(w.do(operator, "PUT", path, bytes.NewReader(make([]byte, maxBundleBody+1)), gz...), 413, codeBodyTooLarge)
	// This appliance has no keys for bundles: the domain says so, and records it.
	before := w.log.count(record.TypeDeny, policy.BundlesNotConfigured)
	w.refused(w.do(operator, "PUT", path, "x", gz...), 409, policy.BundlesNotConfigured)
	if n := w.log.count(record.TypeDeny, policy.BundlesNotConfigured); n != before+1 {
		t.Errorf("%d entries", n-before)
	}
}

func TestRequestsAboutBundles(t *testing.T) {
	w := newWorld(t)
	all := decodeAs[v1.PolicyBundles](w, w.do(auditor, "GET", "/v1/policy/bundles", nil), 200)
	if len(all.Bundles) != 1 || all.Bundles[0].Status != v1.BundleActive || all.Bundles[0].Revision != 0 {
		t.Errorf("%+v", all)
	}
	w.refused(w.do(auditor, "GET", "/v1/policy/bundles/main", nil), 404, policy.BundleUnknown)
	w.refused(w.do(operator, "POST", "/v1/policy/bundles/main/test", "{}"), 400, codeBadRequest)
	w.refused(w.do(operator, "POST", "/v1/policy/bundles/main/test", nil), 404, policy.BundleUnknown)
	w.refused(w.do(operator, "POST", "/v1/policy/bundles/main/approvals", "{}"), 400, codeBadRequest)
	w.refused(w.do(officer, "POST", "/v1/policy/bundles/main/approvals", `{"digest":"x"}`), 404, policy.BundleUnknown)
	w.refused(w.do(officer, "POST", "/v1/policy/bundles/main/approvals", `{"digest":"x","force":true}`), 400, codeUnknownField)
}
