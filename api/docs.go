package api

import (
	"bytes"
	"html/template"
	"net/http"
	"strings"
)

const docsTemplate = `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Signet API</title>
<style>body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}table{border-collapse:collapse;width:100%}
td,th{border-bottom:1px solid #ccc;padding:.3rem .6rem;text-align:left;vertical-align:top}code{white-space:nowrap}</style>
<h1>Signet API</h1>
<p>JSON over TLS 1.3; callers are told by their client certificates. The machine-readable form is <a href="/openapi.json">/openapi.json</a>.</p>
<table><thead><tr><th>endpoint<th>what<th>who</thead><tbody>
{{range .}}<tr><td><code>{{.Method}} {{.Path}}</code><td>{{.Summary}}<td>{{.Who}}
{{end}}</tbody></table></html>
`

// docsPage is the table for people, without anything from elsewhere.
func docsPage(routes []route) ([]byte, error) {
	t, err := template.New("docs").Parse(docsTemplate)
	if err != nil {
		return nil, err
	}
	type row struct{ Method, Path, Summary, Who string }
	rows := make([]row, len(routes))
	for i := range routes {
		r := &routes[i]
		rows[i] = row{r.method, r.path, r.summary, r.who()}
	}
	var out bytes.Buffer
	err = t.Execute(&out, rows)
	return out.Bytes(), err
}

// who are those admitted, in words.
func (r *route) who() string {
	text := r.allowed.String()
	text = strings.Replace(text, known.String(), "every certificate of the trust domain", 1)
	text = strings.Replace(text, staff.String(), "staff", 1)
	if r.own != "" {
		text += " (" + r.own + ")"
	}
	return text
}

// code is a row of the list of refusals.
type code struct {
	name    string
	status  int
	meaning string
}

// codes are the refusals that this package makes itself, in the order of the documents. Those of the domain are its own.
func codes() []code {
	return []code{
		{codeCertificateRequired, http.StatusUnauthorized, "the endpoint needs a client certificate, and there is none"},
		{"client_certificate_untrusted", http.StatusUnauthorized, "the client certificate is of another CA, or does not verify; `checks` says why"},
		{"client_certificate_expired", http.StatusUnauthorized, "the client certificate is outside its validity"},
		{codeRole, http.StatusForbidden, "the table above does not admit this caller"},
		{codeRouteNotFound, http.StatusNotFound, "no such endpoint"},
		{codeMethod, http.StatusMethodNotAllowed, "the endpoint has another method"},
		{codeMediaType, http.StatusUnsupportedMediaType, "the body is not application/json in UTF-8 (400 on /access/*)"},
		{codeContentEncoding, http.StatusUnsupportedMediaType, "the body is compressed (400 on /access/*)"},
		{codeBodyMissing, http.StatusBadRequest, "the body is empty"},
		{codeBodyTooLarge, http.StatusRequestEntityTooLarge, "the body is larger than 64 KiB, or 512 KiB for several spawns or evaluations, 260 KiB with a policy input"},
		{codeBodyIncomplete, http.StatusBadRequest, "the body ended before its length"},
		{codeBodyTimeout, http.StatusRequestTimeout, "the body did not come in time (400 on /access/*)"},
		{codeBadJSON, http.StatusBadRequest, "the body is not JSON"},
		{codeBadUTF8, http.StatusBadRequest, "the body is not UTF-8, or has a lone surrogate"},
		{codeTooDeep, http.StatusBadRequest, "the body is nested deeper than 16 levels"},
		{codeTrailingData, http.StatusBadRequest, "something follows the object"},
		{codeDuplicateField, http.StatusBadRequest, "`field` stands twice in its object"},
		{codeUnknownField, http.StatusBadRequest, "`field` is not known (never on /access/*)"},
		{codeWrongType, http.StatusBadRequest, "`field` has the wrong type, or is null"},
		{codeBadParameter, http.StatusBadRequest, "the query parameter `field` has a wrong value"},
		{codeUnknownParameter, http.StatusBadRequest, "the query parameter `field` is not known"},
		{codeBadIdempotencyKey, http.StatusBadRequest, "`Idempotency-Key` is not one key of 1 to 255 printable ASCII characters"},
		{codeBadScope, http.StatusBadRequest, "`field` is not a list of 1 to 64 distinct scope tokens"},
		{codeBadCertificate, http.StatusBadRequest, "`field` is not a list of PEM certificates"},
		{codeBadTTL, http.StatusBadRequest, "`field` is not a number of seconds"},
		{codeBadEnrollmentHash, http.StatusBadRequest, "`field` is not unpadded base64url of a SHA-256"},
		{codeBadRevocation, http.StatusBadRequest, "`kind` is no kind of revocation"},
		{codeBadRequest, http.StatusBadRequest, "`field` is missing or out of bounds"},
		{codeBadResource, http.StatusBadRequest, "an Envoy's `field` names no resource or action ([services](services.md#behind-envoy)); the client gets 403"},
		{codeBadMessage, http.StatusBadRequest, "the body is not one gRPC message of the method, uncompressed"},
		{codeNotFound, http.StatusNotFound, "there is no such thing"},
		{"entry_not_found", http.StatusNotFound, "there is no such entry that the caller may see"},
		{codePruned, http.StatusGone, "the entry was pruned; its proofs are still here, and the prune entry of `GET /v1/audit/retention` says where it is itself"},
		{"bad_before", http.StatusBadRequest, "`before` is not a time"},
		{"too_recent", http.StatusUnprocessableEntity, "`before` is within what `retention.keep` keeps"},
		{"retention_unset", http.StatusConflict, "no archive is configured, so nothing may be pruned"},
		{"nothing_to_prune", http.StatusConflict, "no whole bundle of 256 entries is from before then and may go: `detail` says what holds it"},
		{"prune_running", http.StatusConflict, "an earlier prune is not finished"},
		{"state_in_force", http.StatusConflict, "state that belongs to an entry from before then is still in force"},
		{"archive_invalid", http.StatusConflict, "what was archived does not verify: `detail` says what; nothing was pruned"},
		{"archive_failed", http.StatusServiceUnavailable, "the archive could not be written or read back; nothing was pruned"},
		{"no_custodians", http.StatusConflict, "the ceremony that began the log named no custodians, so there are no acts"},
		{"bad_act", http.StatusBadRequest, "`act` is not an act as custodians sign it"},
		{"act_other_origin", http.StatusBadRequest, "the act is of another appliance's log"},
		{"act_unknown", http.StatusBadRequest, "a running appliance carries out no acts of this kind"},
		{"act_expired", http.StatusForbidden, "the act's time is over, or has not come"},
		{"act_used", http.StatusConflict, "the act was taken before; an act is taken once"},
		{"custodians_changed", http.StatusConflict, "the act asks others than the custodians in force"},
		{"too_few_approvals", http.StatusForbidden, "not enough custodians agreed; `detail` says who did"},
		{"bad_approval", http.StatusForbidden, "one of `signatures` is not a custodian's over these bytes"},
		{"bad_detail", http.StatusBadRequest, "the act's detail is not what its kind has, or does not fit the appliance as it is"},
		{"key_missing", http.StatusConflict, "the act names a key that the appliance does not have"},
		{"key_other", http.StatusConflict, "the act names another key than the one of this label"},
		{"act_failed", http.StatusServiceUnavailable, "the act is logged and used, but was not carried out; agree to a new one"},
		{codeBundleUnknown, http.StatusNotFound, "there is no such policy bundle"},
		{codeNotAsked, http.StatusConflict, "policy was not asked about this entry"},
		{codeInputErased, http.StatusConflict, "what policy was asked is erased"},
		{codeReviewBusy, http.StatusServiceUnavailable, "another review of policy is under way"},
		{"checkpoint_malformed", http.StatusBadRequest, "not a request to cosign a checkpoint, or its old size is above the checkpoint's"},
		{"checkpoint_unsigned", http.StatusForbidden, "the checkpoint has no valid signature of the log's key"},
		{"log_unknown", http.StatusNotFound, "this appliance is no witness of that log"},
		{codeProof, http.StatusUnprocessableEntity, "the consistency proof does not lead from the checkpoint that was cosigned last"},
		{"witness_unavailable", http.StatusServiceUnavailable, "nothing can be cosigned now; ask again"},
		{codeNotSealed, http.StatusConflict, "nothing signed or sealed covers that yet; ask with `wait=sealed`"},
		{codeRateLimited, http.StatusTooManyRequests, "a quota is used up, and nothing was done: `quota` says which, `Retry-After` and `retry_after` when to come again"},
		{codeOverloaded, http.StatusServiceUnavailable, "too many requests at a time; `Retry-After` says when"},
		{"not_ready", http.StatusServiceUnavailable, "something that issuing and deciding need is away; `/readyz` tells staff what"},
		{"signing_unavailable", http.StatusServiceUnavailable, "the signing key is away or busy, and nothing was done; ask again"},
		{"signing_failed", http.StatusServiceUnavailable, "the signing key failed, and nothing was released; the entry `audit_id` was followed by one that says so. Ask again, with the same spawn ID or `Idempotency-Key`"},
		{"timeout", http.StatusServiceUnavailable, "it took too long"},
		{codeInternal, http.StatusInternalServerError, "a fault of the appliance; nothing is said about it here"},
	}
}
