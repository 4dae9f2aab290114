package api

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/labstack/echo/v4"
)

var update = flag.Bool("update", false, "write docs/api.md from the table")

const docsPath = "../docs/api.md"

// The document is valid OpenAPI 3.1, is what is served, and has exactly the endpoints that are routed.
func TestTheDocumentIsTheRouter(t *testing.T) {
	w := newWorld(t)
	a := w.do(anyone, "GET", "/openapi.json", nil)
	doc, err := openapi3.NewLoader().LoadFromData(a.body)
	must(t, err)
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	routed := map[string]bool{}
	for _, r := range w.server.echo.Routes() {
		if !strings.HasPrefix(r.Path, "/idp/") && r.Method != echo.RouteNotFound {
			routed[r.Method+" "+r.Path] = true
		}
	}
	documented := 0
	for i := range w.server.routes {
		r := &w.server.routes[i]
		documented++
		if !routed[r.method+" "+r.echoPath()] {
			t.Errorf("%s is not routed", r.id)
		}
		item := doc.Paths.Find(r.path)
		if item == nil || item.GetOperation(r.method) == nil || item.GetOperation(r.method).OperationID != r.id {
			t.Errorf("%s is not in the document", r.id)
			continue
		}
		op := item.GetOperation(r.method)
		if open := len(*op.Security) == 0; open != (r.allowed&anyone != 0) {
			t.Errorf("%s: security %v", r.id, op.Security)
		}
		raw, err := json.Marshal(op.Extensions["x-roles"])
		must(t, err)
		if want, err := json.Marshal(r.allowed.names()); err != nil || string(raw) != string(want) {
			t.Errorf("%s: roles %s, want %s", r.id, raw, want)
		}
	}
	if len(routed) != documented {
		t.Errorf("%d endpoints are routed, %d are documented", len(routed), documented)
	}
}

// Each endpoint has a name of its own.
func TestEndpointNames(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range table() {
		if seen[r.id] || seen[r.method+r.path] || r.summary == "" || r.allowed == 0 || r.status == 0 {
			t.Errorf("row %s %s %s", r.id, r.method, r.path)
		}
		seen[r.id], seen[r.method+r.path] = true, true
	}
}

// docs/api.md is the table. After a change of the table: go test ./api -run TestDocs -update
func TestDocs(t *testing.T) {
	want := markdown()
	if *update {
		must(t, os.WriteFile(docsPath, []byte(want), 0o644))
	}
	got, err := os.ReadFile(docsPath)
	must(t, err)
	if string(got) != want {
		t.Error("docs/api.md is not what the table says; go test ./api -run TestDocs -update")
	}
}

func markdown() string {
	var b strings.Builder
	b.WriteString(docsHead)
	for _, n := range roleNames {
		fmt.Fprintf(&b, " %s |", strings.ReplaceAll(n.name, "_", " "))
	}
	b.WriteString("\n|---|---|" + strings.Repeat(":-:|", len(roleNames)) + "\n")
	var notes []string
	for _, r := range table() {
		mark := "●"
		if r.own != "" {
			notes = append(notes, fmt.Sprintf("`%s %s`: %s.", r.method, r.path, r.own))
			mark = fmt.Sprintf("●<sup>%d</sup>", len(notes))
		}
		fmt.Fprintf(&b, "| `%s %s` | %s |", r.method, r.path, r.summary)
		for _, n := range roleNames {
			if r.allowed&n.role == 0 {
				b.WriteString(" |")
				continue
			}
			b.WriteString(" " + mark + " |")
		}
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	for i, n := range notes {
		fmt.Fprintf(&b, "%d. %s\n", i+1, n)
	}
	b.WriteString(docsCodes)
	for _, c := range codes() {
		fmt.Fprintf(&b, "| <a id=\"%s\"></a>`%s` | %d | %s |\n", c.name, c.name, c.status, c.meaning)
	}
	b.WriteString(docsTail)
	return b.String()
}

const docsHead = "<!-- Made from the table in package api: go test ./api -run TestDocs -update -->\n" + `# API

JSON over TLS 1.3, on one port. The machine-readable form is served at ` + "`/openapi.json`" + `; the Go types are in
[api/v1](../api/v1). Callers are told by the client certificate of their connection, never by an address or a header.

## Who may call what

● admits; what is not marked is refused with ` + "`role_not_allowed`" + `, or ` + "`client_certificate_required`" + ` without a certificate. "anyone"
is a caller without a certificate, or with any. Beyond the role, a thing belongs to somebody: the notes say so, and to others
it does not exist (404).

| endpoint | what |`

const docsCodes = `
## Refusals

A refusal is a problem (RFC 9457, ` + "`application/problem+json`" + `) with ` + "`type`, `title`, `status`, `detail`, `code`" + ` and, where they
apply, ` + "`field`" + ` (a path such as ` + "`scope[3]`" + `), ` + "`checks`" + ` of a certificate chain, and ` + "`audit_id`" + `, the index of the entry that records it.
` + "`code`" + ` is stable; the rest is for people. On ` + "`/access/*`" + ` the body is one JSON string instead, ` + "`code (field): detail`" + `.

Status follows from the kind of refusal: 400 the request is malformed, 401 no identity that holds, 403 not allowed, 404 not there
or not yours, 409 the state does not allow it, 422 well-formed and not acceptable (` + "`bad_csr_key`, `bad_csr_signature`, `idempotency_key_reused`" + `),
429 and 503 later, with ` + "`Retry-After`" + `. The domain's own codes (` + "`scope_exceeds_parent`, `task_revoked`, `spawn_id_used`" + ` and so on) are named
where they arise, in packages delegation and delegation/chain. Refused before the domain:

| code | status | meaning |
|---|---|---|
`

const docsTail = `
## Conventions

- **Bodies** are one JSON object, at most 64 KiB, in UTF-8, with ` + "`Content-Type: application/json`" + `. Unknown and repeated members, nulls,
  names in other case, trailing data and lone surrogates are refused. Query parameters likewise.
- **Times** are RFC 3339 in UTC; durations are whole seconds (` + "`ttl`, `max_ttl`" + `).
- **Retries**: ` + "`Idempotency-Key`" + ` (1 to 255 printable ASCII characters) ties a request to its first attempt for 24 hours; the same key
  with another path or body is ` + "`idempotency_key_reused`" + `. A spawn is retried with the same ` + "`spawn_id`" + ` and gives the same certificate; its
  answer then has no ` + "`audit_receipt`" + `.
- **Quotas**: requests count for whom they are for. Of an orchestrator: what it asks for, retries too. Of a task and its user: each agent asked
  for, and whatever an agent of the task asks for. Of a service: its questions. Each item of a batch counts. Too many are ` + "`rate_limited`" + `; nothing was done
  then, and the same request can be sent again. ` + "`RateLimit-Policy`" + ` and ` + "`RateLimit`" + ` (draft-ietf-httpapi-ratelimit-headers-11: ` + "`\"task\";r=9;t=1`" + `)
  tell the tightest quota of the caller's own; a user's shows only where it refuses. Revoking and completing is never refused for a quota.
- **Paging**: ` + "`limit`" + ` (1 to 1000, 100 by default) and ` + "`cursor`" + `, the ` + "`next_cursor`" + ` of the page before.
- **Receipts**: ` + "`audit_receipt.receipt_url`" + ` is readable by those whom the entry names and by staff; only auditors see the payload
  in it. Until the next seal a receipt proves the entry to the signed checkpoint alone, or is ` + "`not_sealed`" + `; with ` + "`?wait=sealed`" + ` it waits.
  ` + "`GET /v1/audit/receipts`" + ` finds those of a certificate, agent, task or decision, for the same readers; the index only finds, and never shows that it found all.
- **Sealed answers**: an answer means that the entry is durable. With ` + "`?wait=sealed`" + ` spawns, batches, certificates of agents and evaluations are answered when a
  seal covers it: ` + "`sealed` and `seal` in `audit_receipt`, `audit_sealed` and `audit_seal`" + ` in a decision's context. Where none comes in time, or too many
  wait, the same answer comes with ` + "`false`" + `: durable, and not sealed yet ([0024](decisions/0024-proofs-and-waiting.md)).
- **AuthZEN** 1.0: ` + "`POST /access/v1/evaluation`" + ` takes subject ` + "`{type: \"agent\", id: <SPIFFE ID>}`" + `, and in ` + "`context`" + ` the agent's
  ` + "`certificate_chain`" + ` (PEM strings, leaf first), ` + "`expected_user {issuer, subject}`" + ` and ` + "`expected_orchestrator`" + `. What is known of the subject comes
  from that chain, or from an agent's own connection; **` + "`properties`" + ` are not looked at**. A denial is 200 with ` + "`decision: false`" + ` and
  ` + "`context.reasons`" + `. Unknown members and nulls are ignored, and ` + "`X-Request-ID`" + ` is echoed if it is at most 256 printable ASCII characters.
- **Several evaluations**: ` + "`POST /access/v1/evaluations`" + ` takes up to 100 in ` + "`evaluations`" + `, with defaults beside it and one of the three
  ` + "`options.evaluations_semantic`" + `. Each is decided, recorded and answered by itself; one that is broken, or that the caller may not ask, is
  ` + "`decision: false`" + ` with ` + "`context.error {status, message}`" + `. With ` + "`deny_on_first_deny` and `permit_on_first_permit`" + ` nothing behind the last answer is
  decided. There is no search: see [0020](decisions/0020-authzen.md).
- **OPA**: ` + "`POST /opa/v1/data/signet/access`" + ` has the shape of OPA's Data API ([services](services.md#programs-written-for-opa)); **Envoy** asks by gRPC
  ([services](services.md#behind-envoy)), where refusals are ` + "`grpc-status` and `grpc-message`" + `, with the code first.
- **Logs of the log**: ` + "`/checkpoint`" + ` and ` + "`/tile/<L>/<N>[.p/<W>]`" + ` are C2SP tlog-tiles, so any transparency client can follow; tiles of entries
  (` + "`/tile/entries/…`" + `) are for auditors. Tiles of hashes may be cached for good; partial ones stay when the tree grows. What is not there yet is 404, which nobody keeps.
  Proofs (` + "`/v1/audit/proof/…`, `/v1/audit/entries/{index}/proof`" + `) hold hashes alone and are everybody's ([0024](decisions/0024-proofs-and-waiting.md)).
  ` + "`/add-checkpoint`" + ` is C2SP tlog-witness ([witness.md](formats/witness.md)); its 409 is ` + "`text/x.tlog.size`" + `.
`

// Every code that the package names is in the list, with the status that it gets.
func TestEveryCodeIsListed(t *testing.T) {
	listed := map[string]int{}
	for _, c := range codes() {
		if _, twice := listed[c.name]; twice {
			t.Errorf("%s stands twice", c.name)
		}
		listed[c.name] = c.status
		if s, ok := statuses[c.name]; ok && s != c.status {
			t.Errorf("%s: listed %d, mapped %d", c.name, c.status, s)
		}
	}
	word := regexp.MustCompile(`(?m)^\tcode[A-Za-z0-9]+\s+= "([a-z_0-9]+)"`)
	src, err := os.ReadFile("problem.go")
	must(t, err)
	found := word.FindAllStringSubmatch(string(src), -1)
	if len(found) < 20 {
		t.Fatalf("%d codes found", len(found))
	}
	for _, m := range found {
		if _, ok := listed[m[1]]; !ok {
			t.Errorf("%s is not in codes()", m[1])
		}
	}
	used := regexp.MustCompile(`refuse\(delegation\.\w+, "([a-z_0-9]+)"|Code: "([a-z_0-9]+)"`)
	files, err := filepath.Glob("*.go")
	must(t, err)
	for _, f := range slices.DeleteFunc(files, func(f string) bool { return strings.HasSuffix(f, "_test.go") }) {
		src, err := os.ReadFile(f)
		must(t, err)
		for _, m := range used.FindAllStringSubmatch(string(src), -1) {
			if _, ok := listed[m[1]+m[2]]; !ok {
				t.Errorf("%s: %s is not in codes()", f, m[1]+m[2])
			}
		}
	}
}
