package api

import (
	"net/http"
	"strconv"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/policy"
)

// problemBase is what a problem's type begins with; its code follows.
const problemBase = "https://github.com/signet-pki/signet/blob/main/docs/api.md#"

// The codes of refusals that happen before the domain sees a request. They are part of the API and never change.
const (
	codeCertificateRequired = "client_certificate_required"
	codeRole                = "role_not_allowed"
	codeRouteNotFound       = "route_not_found"
	codeMethod              = "method_not_allowed"
	codeMediaType           = "unsupported_media_type"
	codeContentEncoding     = "unsupported_encoding"
	codeBodyMissing         = "body_missing"
	codeBodyTooLarge        = "body_too_large"
	codeBodyIncomplete      = "body_incomplete"
	codeBodyTimeout         = "body_timeout"
	codeBadJSON             = "bad_json"
	codeBadUTF8             = "bad_utf8"
	codeTooDeep             = "too_deep"
	codeTrailingData        = "trailing_data"
	codeDuplicateField      = "duplicate_field"
	codeUnknownField        = "unknown_field"
	codeWrongType           = "wrong_type"
	codeBadParameter        = "bad_parameter"
	codeUnknownParameter    = "unknown_parameter"
	codeBadIdempotencyKey   = "bad_idempotency_key"
	codeBadScope            = "bad_scope"
	codeBadCertificate      = "bad_certificate"
	codeBadRequest          = "bad_request"
	codeBadResource         = "bad_resource"
	codeBadMessage          = "bad_grpc_message"
	codeBadTTL              = "bad_ttl"
	codeBadEnrollmentHash   = "bad_enrollment_hash"
	codeBadRevocation       = "bad_revocation_kind"
	codeNotFound            = "not_found"
	codeBundleUnknown       = "bundle_unknown"
	codeNotAsked            = "policy_not_asked"
	codeInputErased         = "input_erased"
	codeReviewBusy          = "review_busy"
	codeNotSealed           = "not_sealed"
	codePruned              = "entry_pruned"
	codeTooRecent           = "too_recent"
	codeProof               = "proof_invalid"
	codeRateLimited         = "rate_limited"
	codeOverloaded          = "overloaded"
	codeInternal            = "internal"
)

// statuses are the codes whose status is not that of their kind: here HTTP has a status of its own.
var statuses = map[string]int{
	codeMethod:               http.StatusMethodNotAllowed,
	codeMediaType:            http.StatusUnsupportedMediaType,
	codeContentEncoding:      http.StatusUnsupportedMediaType,
	codeBodyTooLarge:         http.StatusRequestEntityTooLarge,
	codeBodyTimeout:          http.StatusRequestTimeout,
	codeNotSealed:            http.StatusConflict,
	codePruned:               http.StatusGone,
	codeTooRecent:            http.StatusUnprocessableEntity,
	"idempotency_key_reused": http.StatusUnprocessableEntity, // draft-ietf-httpapi-idempotency-key-header §2.7
	policy.BundleTooLarge:    http.StatusRequestEntityTooLarge,
	codeProof:                http.StatusUnprocessableEntity, // tlog-witness, "add-checkpoint"
	chain.CodeCSRKey:         http.StatusUnprocessableEntity,
	chain.CodeCSRSignature:   http.StatusUnprocessableEntity,
}

// StatusOf maps a refusal to its HTTP status. Whatever nobody classified is 500.
func StatusOf(e *delegation.Error) int {
	if s, ok := statuses[e.Code]; ok && e.Kind != delegation.Internal {
		return s
	}
	switch e.Kind {
	case delegation.Invalid:
		return http.StatusBadRequest
	case delegation.Unauthenticated:
		return http.StatusUnauthorized
	case delegation.Forbidden:
		return http.StatusForbidden
	case delegation.NotFound:
		return http.StatusNotFound
	case delegation.Conflict:
		return http.StatusConflict
	case delegation.Exhausted:
		return http.StatusTooManyRequests
	case delegation.Unavailable:
		return http.StatusServiceUnavailable
	case delegation.Internal:
	}
	return http.StatusInternalServerError
}

// accessStatus says it in AuthZEN's statuses, which know 400 for whatever is wrong with a request's form.
func accessStatus(status int) int {
	switch status {
	case http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity, http.StatusRequestTimeout:
		return http.StatusBadRequest
	}
	return status
}

// retryAfter is what a caller is told to wait, in seconds; "" when waiting does not help.
func retryAfter(e *delegation.Error, status int) string {
	if x := exceeded(e); x != nil {
		return strconv.Itoa(x.Next)
	}
	switch {
	case status == http.StatusTooManyRequests, e.Code == codeNotSealed, e.Code == "idempotency_race":
		return "1"
	case e.Code == codeOverloaded, e.Code == "signing_unavailable":
		return "1"
	case status == http.StatusServiceUnavailable:
		return "5"
	}
	return ""
}

// problemOf shows a refusal to its caller. A fault of the appliance shows nothing but its entry.
func problemOf(e *delegation.Error) v1.Problem {
	status := StatusOf(e)
	p := v1.Problem{
		Type: problemBase + e.Code, Title: http.StatusText(status), Status: status, Code: e.Code, AuditID: e.AuditIndex,
	}
	if status == http.StatusInternalServerError {
		p.Code, p.Type = codeInternal, problemBase+codeInternal
		return p
	}
	p.Detail, p.Field, p.Checks = e.Detail, e.Field, wireChecks(e.Checks)
	if x := exceeded(e); x != nil {
		p.Quota, p.RetryAfter = string(x.Name), x.Next
	}
	return p
}

func refuse(k delegation.Kind, code, field, detail string) *delegation.Error {
	return &delegation.Error{Kind: k, Code: code, Field: field, Detail: detail}
}

func invalid(code, field, detail string) *delegation.Error {
	return refuse(delegation.Invalid, code, field, detail)
}

func (f *fault) refusal() *delegation.Error { return invalid(f.code, f.field, f.detail) }

// allChecks is for answers, whose checks are never absent.
func allChecks(checks []chain.Check) map[string]v1.Check {
	if out := wireChecks(checks); out != nil {
		return out
	}
	return map[string]v1.Check{}
}

func wireChecks(checks []chain.Check) map[string]v1.Check {
	if len(checks) == 0 {
		return nil
	}
	out := make(map[string]v1.Check, len(checks))
	for _, c := range checks {
		out[string(c.Name)] = v1.Check{Status: c.Status.String(), Code: c.Code, Detail: c.Detail, Required: c.Required}
	}
	return out
}
